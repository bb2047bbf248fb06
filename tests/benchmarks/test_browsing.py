"""The benchmark of looking into a store runs and ends with its line of JSON."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "browsing.py"


@pytest.mark.slow
@pytest.mark.timeout(700)
def test_it_ends_with_its_figures():
    command = [sys.executable, str(BENCHMARK), "--small"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert {"ls_s", "lineage_s", "report_s", "ls_cpu_s"} <= found.keys()
    assert all(seconds > 0 for seconds in found.values())
