"""Sequence-level distillation: a teacher answers prompts, a student learns from the answers, and is judged."""

import json

import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from tasks.llm_distillation.distill_lm import DistillLm
from tasks.llm_distillation.evaluate_lm import EvaluateLm
from tasks.llm_distillation.generate_responses import GenerateResponses
from tests.tasks.harness import KilledError, equal, run_task
from tests.tasks.llm_distillation import tiny


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("sequence-level")


@pytest.fixture(scope="module")
def given(place):
    """A teacher of the words, a student of its first layers, and prompts with responses that are not the teacher's."""
    letters = "abcdefghij"
    pairs = [{"prompt": f"{one} {other}", "response": "u u u"} for one in letters for other in letters]
    (place / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs[::2])))
    return {
        "teacher": tiny.word_folder(place / "teacher", layers=4),
        "student": {"layers": 2},
        "corpus": {"path": str(place / "pairs.jsonl"), "template": "{prompt}"},
        "objective": "sft",
        "length": 24,
        "batch": 4,
        "epochs": 5.0,
        "lr": 0.01,
        "held_out": 2,
    }


@pytest.fixture(scope="module")
def written(given):
    config = {"model": given["teacher"], "corpus": given["corpus"], "length": 8, "unended": True}
    return run_task(GenerateResponses, {**config, "sampling": {"new_tokens": 6, "temperature": 0.0}})


@pytest.fixture(scope="module")
def taught(given, written):
    return run_task(DistillLm, given, {"responses": written})


@pytest.fixture(scope="module")
def answers(given, written, place):
    """The answers as a corpus of their own."""
    pq.write_table(written.table("responses"), place / "responses.parquet")
    return {**given["corpus"], "path": str(place / "responses.parquet")}


def test_the_student_comes_nearer_to_the_teacher_than_from_other_text(given, taught, answers):
    models = {"seq_kd": taught, "student": run_task(DistillLm, given)}
    config = {"corpus": answers, "length": 24, "teacher": given["teacher"], "before": given["student"]}
    greedy = {"sampling": {"new_tokens": 6, "temperature": 0.0}, "sampling_seeds": 1}
    scores = run_task(EvaluateLm, {**config, **greedy, "prompts": 20}, models)
    found = {row["model"]: row for row in scores.table("summary").to_pylist()}
    others = [found["before"], found["student"]]
    assert found["seq_kd"]["perplexity"] < 0.5 * min(row["perplexity"] for row in others)
    assert found["seq_kd"]["rouge_l_%"] > 1.5 * max(row["rouge_l_%"] for row in others)


def test_answers_are_learned_from_as_the_corpus_that_they_are(given, taught, answers):
    assert equal(taught, run_task(DistillLm, {**given, "corpus": answers}))


def test_answers_that_another_engine_wrote_teach_the_same(given, taught, written, place):
    rows = written.table("responses").select(["prompt", "response"]).to_pylist()
    told = [{"request_id": f"r{number}", **row, "finish_reason": "stop"} for number, row in enumerate(rows)]
    (place / "engine.jsonl").write_text("\n".join(map(json.dumps, told)))
    elsewhere = {**given["corpus"], "path": str(place / "engine.jsonl")}
    assert equal(taught, run_task(DistillLm, {**given, "corpus": elsewhere}))


def test_epochs_are_those_of_the_answers(taught, written):
    counts = taught.facts["counts"]
    assert counts["rows"] == counts["documents"] == written.facts["counts"]["kept"]
    assert taught.metrics["steps"] == round(5 * (counts["sequences"] - 2) / 4)


def test_what_is_cut_is_told(given, written, caplog):
    short = run_task(DistillLm, {**given, "length": 6, "epochs": None, "steps": 1}, {"responses": written})
    counts = short.facts["counts"]
    assert 0 < counts["truncated"] == counts["over_long"]
    assert f"{counts['truncated']} truncated" in caplog.text


def test_killed_and_resumed_is_undisturbed(given, taught, written):
    progress = {}
    with pytest.raises(KilledError):
        run_task(DistillLm, given, {"responses": written}, progress=progress, kill_after=2)
    assert equal(run_task(DistillLm, given, {"responses": written}, progress=progress), taught)


def test_a_teacher_may_read_along(given, written):
    config = {**given, "objective": {"name": "forward_kl", "cross_entropy": 0.5}, "epochs": None, "steps": 2}
    assert run_task(DistillLm, config, {"responses": written}).metrics["held_out_forward_kl"] > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"corpus": "other"}, "responses: were written to another corpus"),
        ({"held_out": 1000}, "the responses have .* hold out less"),
    ],
)
def test_answers_that_do_not_fit_are_refused(given, written, change, message, tmp_path):
    if "corpus" in change:
        change = {"corpus": tiny.word_texts(tmp_path / "other.jsonl")}
    with pytest.raises(ValueError, match=message) as refused:
        run_task(DistillLm, {**given, **change}, {"responses": written})
    assert "\n" not in str(refused.value)


def test_labels_are_of_other_text(given):
    with pytest.raises(ValidationError, match="give either `labels` or `responses`"):
        DistillLm.Config(**given, labels="labels", responses="responses")
