import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "soft_labels.py"


@pytest.mark.slow
@pytest.mark.timeout(700)
def test_ends_with_its_figures():
    command = [sys.executable, str(SCRIPT), "--small"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=600)
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["throughput_ratio"] > 0
    assert figures["reader_ratio"] > 0
    assert figures["cached_images_per_s"] > 0
    assert figures["step_ms_read"] > 0
    assert "throughput_ratio" in done.stdout.splitlines()[0]
