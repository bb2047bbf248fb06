import sys

import pytest
from figures import figures


@pytest.mark.slow
@pytest.mark.timeout(700)
@pytest.mark.skipif(sys.platform != "linux", reason="peaks are read from /proc")
def test_prints_its_figures_and_the_error_is_small():
    found, _ = figures("lm_loss.py", "--small", "--threads", "1", "--repeats", "1", "--divergences", "jsd")
    assert list(found) == ["memory_ratio", "time_ratio", "max_error", "rows"]
    assert [(row["tokens"], row["vocabulary"]) for row in found["rows"]] == [(96, 3000), (192, 3000)]
    assert 0 < found["max_error"] < 1e-5
    assert found["memory_ratio"] > 0
    assert found["time_ratio"] > 0
    assert all(row["plain_mb"] > 2 * row["tokens"] * 3000 * 4 / 2**20 for row in found["rows"])
