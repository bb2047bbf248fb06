import os
import subprocess
import sys

from figures import BENCHMARKS, figures

from tasks.llm_distillation.writing.vllm_client import PYTHON
from tests.tasks.llm_distillation import tiny
from tests.tasks.llm_distillation.tiny import needs_vllm


@needs_vllm
def test_ends_with_its_figures(tmp_path):
    words = tiny.tokenizer()
    folder = tiny.saved(
        tmp_path / "model", tiny.llama(len(words), **tiny.WIDE, max_position_embeddings=512), words
    )
    (tmp_path / "asked.jsonl").write_text(
        "\n".join(f'{{"question": "say {n}", "answer": ""}}' for n in range(4))
    )
    found, _ = figures(
        "writing.py", "--model", str(folder), "--corpus", str(tmp_path / "asked.jsonl"), "--tokens", "8",
        "--batch", "2", "--repeats", "1", "--device", "cpu",
    )  # fmt: skip
    (row,) = found["rows"]
    assert row["batch"] == 2
    assert row["tokens_per_s"].keys() == {"transformers", "vllm"}
    assert min(row["tokens_per_s"].values()) > 0
    assert 0 < row["reload_s"] < row["load_s"]


def test_says_what_to_install():
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "writing.py")], env=os.environ | {PYTHON: "/nowhere"}, text=True,
        capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "expected the Python of an environment with vLLM" in done.stderr
    assert "Traceback" not in done.stderr
