import pytest
from figures import figures

from tests.tasks.llm_distillation import tiny


@pytest.mark.slow
@pytest.mark.timeout(700)
@tiny.needs("lm_stories260k")
def test_ends_with_its_figures():
    found, _ = figures("token_labels.py", "--small")
    assert [row["k"] for row in found["rows"]] == [32, 128]
    assert found["positions"] >= 3000
    assert found["ratio_to_distillkit_k128"] < 0.6
    for row in found["rows"]:
        assert row["kl"] <= row["distillkit_kl"]
        assert row["bytes_per_token"] < row["distillkit_bytes_per_token"] < row["raw_bytes_per_token"]
