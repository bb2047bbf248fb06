"""The benchmark of the engine runs and ends with its line of JSON."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "engine_overhead.py"


@pytest.mark.slow
@pytest.mark.timeout(700)
def test_it_ends_with_its_figures():
    command = [sys.executable, str(BENCHMARK), "--small"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["ms_per_shard"] > 0
    assert found["speedup_2_workers"] > 0
    assert found["overhead_1s"] < 1
    assert found["ray_start_s"] > 0
