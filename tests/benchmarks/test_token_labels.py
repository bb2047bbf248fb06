import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tasks.llm_distillation import tiny

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "token_labels.py"


@pytest.mark.slow
@pytest.mark.timeout(700)
@tiny.needs("lm_stories260k")
@tiny.needs("text_lm")
def test_ends_with_its_figures():
    command = [sys.executable, str(SCRIPT), "--small"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=600)
    figures = json.loads(done.stdout.splitlines()[-1])
    assert [row["k"] for row in figures["rows"]] == [32, 128]
    assert figures["positions"] >= 3000
    assert figures["ratio_to_distillkit_k128"] < 0.6
    for row in figures["rows"]:
        assert row["kl"] <= row["distillkit_kl"]
        assert row["bytes_per_token"] < row["distillkit_bytes_per_token"] < row["raw_bytes_per_token"]
