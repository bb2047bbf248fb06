import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "experts.py"


@pytest.mark.slow
@pytest.mark.timeout(700)
def test_ends_with_its_figures():
    command = [sys.executable, str(SCRIPT), "--small"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=600)
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["ratio"] > 0
    assert figures["ratio_without_tests"] > 0
    assert figures["ratio_memory_kept"] > 0
    assert figures["experts_per_hour"] > 0
    assert figures["arrangement"].keys() == {"workers", "threads", "stack"}
    assert "forward, backward, step" in done.stdout
