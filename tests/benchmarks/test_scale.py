"""The benchmark of scale runs: failures, a killed driver, its resume; and it ends with its line of JSON."""

import pytest
from figures import figures


@pytest.mark.slow
@pytest.mark.timeout(700)
def test_it_ends_with_its_figures():
    found, _ = figures("scale.py", "--shards", "400", "--workers", "20")
    assert (found["shards"], found["workers"]) == (400, 20)
    assert found["driver_us_per_shard"] > 0
    assert found["peak_mb"] > 0
    assert found["resume_plan_s"] > 0
    assert found["close_s"] > 0
