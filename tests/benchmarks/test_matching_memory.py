import sys

import pytest
from figures import figures

STEPS = ["10", "80"]
"""The first and the last of those of a whole run."""


@pytest.mark.slow
@pytest.mark.timeout(700)
@pytest.mark.skipif(sys.platform != "linux", reason="peaks are read from /proc")
def test_prints_its_figures_and_memory_does_not_grow():
    found, _ = figures("matching_memory.py", "--small", "--threads", "1", "--repeats", "1")
    assert list(found) == ["peak_mb", "plain_peak_mb", "time_ratio"]
    assert all(list(column) == STEPS for column in found.values())
    adjoint, plain = found["peak_mb"], found["plain_peak_mb"]
    assert adjoint["80"] < 1.5 * adjoint["10"] + 3
    assert plain["80"] > 5 * plain["10"] > 10
    assert all(ratio > 0 for ratio in found["time_ratio"].values())
