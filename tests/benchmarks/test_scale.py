"""The benchmark of scale runs: failures, a killed driver, its resume; and it ends with its line of JSON."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "scale.py"


@pytest.mark.slow
@pytest.mark.timeout(700)
def test_it_ends_with_its_figures():
    command = [sys.executable, str(BENCHMARK), "--shards", "400", "--workers", "20"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["shards"], found["workers"]) == (400, 20)
    assert found["driver_us_per_shard"] > 0
    assert found["peak_mb"] > 0
    assert found["resume_plan_s"] > 0
    assert found["close_s"] > 0
