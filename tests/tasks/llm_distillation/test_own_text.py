"""Students that learn from what they write themselves, alone and mixed with kept labels of the corpus."""

import pytest
from pydantic import ValidationError

from tasks.llm_distillation.distill_lm import DistillLm
from tasks.llm_distillation.token_labels import LabelTokens
from tasks.llm_distillation.training.teacher_signal import Speaking
from tests.tasks.gang_harness import run_gang
from tests.tasks.harness import KilledError, curve, equal, run_task
from tests.tasks.llm_distillation import tiny

WRITING = {"share": 0.6, "sampling": {"new_tokens": 6}, "prompt_tokens": 3}


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A teacher, its two-layer student and a corpus."""
    return tiny.word_case(
        tmp_path_factory.mktemp("own"), objective={"name": "forward_kl", "cross_entropy": 0.5}, steps=8
    )


@pytest.fixture(scope="module")
def labels(given):
    """The five likeliest tokens of each position, which are not all."""
    about = {name: given[name] for name in ("teacher", "corpus", "length")}
    return run_task(LabelTokens, {**about, "labels": {"k": 5}, "sequences_per_shard": 20})


@pytest.fixture(scope="module")
def all_labels(given):
    """The teacher's whole distribution."""
    about = {name: given[name] for name in ("teacher", "corpus", "length")}
    return run_task(LabelTokens, {**about, "labels": {"form": "full"}})


@pytest.mark.parametrize(
    "extra", [{}, {"buffer": {"capacity": 10, "growth": 0.2}}, {"corrections": 2, "buffer": {"capacity": 5}}]
)
@pytest.mark.parametrize("kept", [False, True], ids=["teacher", "labels"])
def test_a_student_learns_from_its_own_text_and_is_resumed(given, labels, extra, kept):
    inputs = {"labels": labels} if kept else {}
    config = {**given, "on_policy": {**WRITING, **extra}}
    whole = run_task(DistillLm, config, inputs)
    written, read = curve(whole, "written_loss"), curve(whole)
    assert len(written) + len(read) == 8
    assert written
    assert read
    assert set(curve(whole, "written_cross_entropy")) <= {0.0}
    progress = {}
    with pytest.raises(KilledError):
        run_task(DistillLm, config, inputs, progress=progress, kill_after=5)
    assert equal(run_task(DistillLm, config, inputs, progress=progress), whole)


def test_without_own_text_a_mixed_student_is_the_cached_one(given, labels):
    inputs = {"labels": labels}
    cached = run_task(DistillLm, given, inputs)
    mixed = run_task(DistillLm, {**given, "on_policy": {**WRITING, "share": 0.0}}, inputs)
    assert equal(mixed, cached)
    assert mixed.shards[0].curves == cached.shards[0].curves


def test_the_teacher_is_asked_for_written_steps_alone(given, labels, monkeypatch):
    asked, speak = [], Speaking.__call__

    def listened(self, rows, batch):
        asked.append(len(rows))
        return speak(self, rows, batch)

    monkeypatch.setattr(Speaking, "__call__", listened)
    student = run_task(DistillLm, {**given, "on_policy": WRITING}, {"labels": labels})
    written = len(curve(student, "written_loss"))
    assert 0 < written < 8
    assert asked == [2] * (3 * written)  # three forward passes of two sequences


def test_whole_labels_mix_as_a_teacher_that_reads_along_does(given, all_labels):
    config = {**given, "on_policy": WRITING}
    spoken, mixed = run_task(DistillLm, config), run_task(DistillLm, config, {"labels": all_labels})
    for name in ("train_loss", "written_loss", "held_out_loss"):
        assert curve(mixed, name) == pytest.approx(curve(spoken, name), rel=5e-3), name


def test_a_sparing_student_writes_alike_at_every_stage(given):
    config = {**given, "on_policy": {**WRITING, "share": 1.0}, "steps": 3, "activation_checkpointing": True}
    one, other = (
        run_task(DistillLm, {**config, "zero": {"stage": stage, "whole_below": 0}}) for stage in (0, 3)
    )
    assert curve(one, "written_loss") == pytest.approx(curve(other, "written_loss"), rel=1e-3)


@pytest.mark.slow
def test_two_ranks_write_what_one_writes(given, labels, tmp_path):
    on_policy = {**WRITING, "buffer": {"capacity": 10}, "corrections": 1}
    config = {**given, "on_policy": on_policy, "steps": 4, "zero": {"stage": 3, "whole_below": 0}}
    inputs = {"labels": labels}
    alone = run_task(DistillLm, config, inputs)
    pair = run_gang(DistillLm, config, inputs, ranks=2, folder=tmp_path)
    for name in ("written_loss", "train_loss"):
        assert len(curve(alone, name)) > 0
        assert curve(pair, name) == pytest.approx(curve(alone, name), rel=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"teacher": None, "student": "teacher"},
            "labels know nothing of what the student writes; give `teacher`",
        ),
        ({"spans": {}}, "need a teacher that reads along; leave out `labels`"),
        ({"objective": "sft"}, "give the objective a divergence"),
    ],
)
def test_what_labels_and_own_text_do_not_go_with_is_refused(given, change, message):
    change = {name: given["teacher"] if value == "teacher" else value for name, value in change.items()}
    with pytest.raises(ValidationError, match=message):
        DistillLm.Config(**{**given, "labels": "0" * 32, "on_policy": WRITING, **change})


def test_a_teacher_that_is_not_the_labels_own_is_refused(given, labels, tmp_path):
    other = tiny.word_folder(tmp_path / "other", seed=5)
    config = DistillLm.Config(**{**given, "teacher": other, "labels": "0" * 32, "on_policy": WRITING})
    with pytest.raises(ValueError, match="teacher_digest is"):
        DistillLm.describe(config, {"labels": labels.described})


def test_a_plan_counts_the_teacher_beside_labels(given, labels):
    def held(**settings):
        config = DistillLm.Config(**{**given, "labels": "0" * 32, **settings})
        return DistillLm.describe(config, {"labels": labels.described}).get("teacher_bytes", 0)

    assert held() == 0
    assert held(on_policy=WRITING) > 10_000
