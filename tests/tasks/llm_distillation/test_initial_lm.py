import subprocess
import sys

import pytest
from pydantic import ValidationError

from orchestrator.experiment import parse_settings
from tasks.llm_distillation.distill_lm import DistillLm
from tasks.llm_distillation.initial_lm import InitialLm
from tasks.llm_distillation.models.model_artifact import artifact_config, artifact_tokenizer, load_artifact
from tasks.llm_distillation.models.vocabulary import tokenizer_facts
from tasks.llm_distillation.text.sequences import sequences
from tests.tasks.harness import run_task
from tests.tasks.llm_distillation import tiny

SIZES = {"layers": 2, "hidden_size": 16, "heads": 2, "positions": 64}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(tiny.TEXT)
    return str(path)


def config(text, vocabulary=300, **changes):
    learnt = {"corpus": text, "vocabulary": vocabulary}
    return parse_settings(InitialLm.Config, {"tokenizer": learnt, **SIZES, **changes})


@pytest.fixture(scope="module")
def initial(text):
    return run_task(InitialLm, config(text))


def test_what_is_planned_is_what_is_made(initial):
    model, tokenizer = load_artifact(initial, "cpu")
    facts = initial.facts
    assert facts["tokenizer"] == tokenizer_facts(tokenizer)
    assert facts["parameters"] == sum(weight.numel() for weight in model.parameters())
    made = artifact_config(initial)
    assert (made.num_hidden_layers, made.hidden_size, made.vocab_size) == (2, 16, len(tokenizer))
    assert (facts["layers"], facts["positions"], made.intermediate_size) == (2, 64, 48)


def test_its_tokenizer_keeps_any_text_and_begins_it(initial):
    tokenizer = artifact_tokenizer(initial)
    for text in (tiny.TEXT, "", " a  b\n\n", "straße 中文 \x00\U0001f600"):
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == tokenizer.bos_token_id
        assert tokenizer.decode(ids[1:]) == text
    assert len(tokenizer(tiny.TEXT)["input_ids"]) < 0.8 * len(tiny.TEXT.encode())


@pytest.mark.slow
def test_another_process_learns_the_same(initial, text):
    code = (
        "import sys; from tasks.llm_distillation.initial_lm import InitialLm;"
        "from tests.tasks.llm_distillation.test_initial_lm import config;"
        "print(InitialLm.describe(config(sys.argv[1]), {})['tokenizer']['digest'])"
    )
    told = subprocess.run([sys.executable, "-c", code, text], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == initial.facts["tokenizer"]["digest"]


def test_the_seed_is_the_weights(initial, text):
    again, other = run_task(InitialLm, config(text)), run_task(InitialLm, config(text), seed=1)
    names = initial.tensors("model").keys()
    assert all((again.tensors("model")[name] == initial.tensors("model")[name]).all() for name in names)
    assert any((other.tensors("model")[name] != initial.tensors("model")[name]).any() for name in names)


def test_it_is_trained_and_teaches(initial, text):
    """All of its layers by text alone, and one of them by the trained one."""
    usual = {
        "teacher_artifact": "${teacher}",
        "corpus": text,
        "length": 32,
        "steps": 30,
        "held_out": 4,
        "lr": 0.02,
    }
    settings = parse_settings(DistillLm.Config, {**usual, "student": {"layers": 2}, "objective": "sft"})
    teacher = run_task(DistillLm, settings, {"teacher_artifact": initial})
    fresh = parse_settings(DistillLm.Config, {**usual, "student": {"layers": 1}, "objective": "forward_kl"})
    student = run_task(DistillLm, fresh, {"teacher_artifact": teacher})
    assert teacher.metrics["held_out_loss"] < 4.5  # nothing learnt: the logarithm of 300, 5.7
    assert student.metrics["held_out_agreement"] > 0.2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocabulary": 257}, "vocabulary"),
        ({"hidden_size": 18}, "a multiple of 4, twice the heads"),
        ({"kv_heads": 3}, "no multiple of 3 kv_heads"),
        ({"tokenizer": {"corpus": "missing.txt"}}, "found neither"),
    ],
)
def test_what_does_not_fit_is_refused(text, changes, message):
    with pytest.raises((ValueError, ValidationError), match=message):
        InitialLm.describe(config(text, **changes), {})


def test_the_text_that_comes_with_limbeck(monkeypatch, tmp_path):
    monkeypatch.setenv("LIMBECK_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    settings = config("shakespeare.txt.gz")
    assert settings.tokenizer.corpus.examples()[0].text.startswith("First Citizen:")
    made = run_task(InitialLm, settings)
    assert len(sequences(settings.tokenizer.corpus, artifact_tokenizer(made), 64)) > 8000
