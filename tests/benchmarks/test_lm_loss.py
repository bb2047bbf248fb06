import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "lm_loss.py"


@pytest.mark.slow
@pytest.mark.timeout(700)
@pytest.mark.skipif(sys.platform != "linux", reason="peaks are read from /proc")
def test_prints_its_figures_and_the_error_is_small():
    command = [sys.executable, str(SCRIPT), "--small", "--threads", "1", "--repeats", "1"]
    done = subprocess.run([*command, "--divergences", "jsd"], stdout=subprocess.PIPE, text=True, check=True)
    figures = json.loads(done.stdout.splitlines()[-1])
    assert list(figures) == ["memory_ratio", "time_ratio", "max_error", "rows"]
    assert [(row["tokens"], row["vocabulary"]) for row in figures["rows"]] == [(96, 3000), (192, 3000)]
    assert 0 < figures["max_error"] < 1e-5
    assert figures["memory_ratio"] > 0
    assert figures["time_ratio"] > 0
    assert all(row["plain_mb"] > 2 * row["tokens"] * 3000 * 4 / 2**20 for row in figures["rows"])
