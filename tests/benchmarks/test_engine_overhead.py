"""The benchmark of the engine runs and ends with its line of JSON."""

import pytest
from figures import figures


@pytest.mark.slow
@pytest.mark.timeout(700)
def test_it_ends_with_its_figures():
    found, _ = figures("engine_overhead.py", "--small")
    assert found["ms_per_shard"] > 0
    assert found["speedup_2_workers"] > 0
    assert found["overhead_1s"] < 1
    assert found["ray_start_s"] > 0
