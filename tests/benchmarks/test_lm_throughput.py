import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.data.files import data_folder

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "lm_throughput.py"
SMALL = ["--teacher", "lm_stories260k", "--layers", "2", "--length", "64", "--batch", "2", "--steps", "2"]
HERE = data_folder("lm_stories260k", None).is_dir()
needs_data = pytest.mark.skipif(not HERE, reason="lm_stories260k is not in the data folder")


def run(*arguments):
    command = [sys.executable, str(SCRIPT), *SMALL, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
@needs_data
def test_prints_its_figures():
    done = run("--ways", "cached", "online")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["tokens_per_s"].keys() == figures["peak_gb"].keys() == {"cached", "online"}
    assert min(figures["tokens_per_s"].values()) > 0
    assert "ratio_to_trl" not in figures


@pytest.mark.slow
@needs_data
@pytest.mark.skipif(importlib.util.find_spec("trl") is not None, reason="TRL is installed")
def test_says_what_to_install():
    done = run("--ways", "trl")
    assert done.returncode == 1
    assert "pip install trl datasets" in done.stderr
    assert "Traceback" not in done.stderr
