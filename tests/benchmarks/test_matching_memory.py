import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "matching_memory.py"
STEPS = ["10", "80"]
"""The first and the last of those of a whole run."""


@pytest.mark.slow
@pytest.mark.timeout(700)
@pytest.mark.skipif(sys.platform != "linux", reason="peaks are read from /proc")
def test_prints_its_figures_and_memory_does_not_grow():
    command = [sys.executable, str(SCRIPT), "--small", "--threads", "1", "--repeats", "1"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    figures = json.loads(done.stdout.splitlines()[-1])
    assert list(figures) == ["peak_mb", "plain_peak_mb", "time_ratio"]
    assert all(list(column) == STEPS for column in figures.values())
    adjoint, plain = figures["peak_mb"], figures["plain_peak_mb"]
    assert adjoint["80"] < 1.5 * adjoint["10"] + 3
    assert plain["80"] > 5 * plain["10"] > 10
    assert all(ratio > 0 for ratio in figures["time_ratio"].values())
