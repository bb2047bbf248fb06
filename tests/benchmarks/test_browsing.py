"""The benchmark of looking into a store runs and ends with its line of JSON."""

import pytest
from figures import figures


@pytest.mark.slow
@pytest.mark.timeout(700)
def test_it_ends_with_its_figures():
    found, _ = figures("browsing.py", "--small")
    assert {"ls_s", "lineage_s", "report_s", "ls_cpu_s"} <= found.keys()
    assert all(seconds > 0 for seconds in found.values())
