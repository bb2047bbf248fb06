"""Students whose teachers have another tokenizer: universal logit distillation in distill_lm."""

import json

import numpy as np
import pytest
import torch

from tasks.llm_distillation.distill_lm import DistillLm
from tasks.llm_distillation.models.language_model import LanguageModel
from tasks.llm_distillation.text.corpus import Corpus
from tasks.llm_distillation.text.retold import Retold
from tasks.llm_distillation.text.sequences import sequences
from tasks.llm_distillation.token_labels import LabelTokens
from tasks.llm_distillation.training.lm_step import batch_of
from tasks.llm_distillation.training.teacher_reader import WholeReader
from tasks.llm_distillation.training.teacher_signal import Retelling, Speaking
from tests.tasks.gang_harness import run_gang
from tests.tasks.harness import KilledError, curve, equal, run_task
from tests.tasks.llm_distillation import tiny

ULD = {"divergences": ({"name": "uld"},)}


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A teacher, two students with other tokens, and a text for all."""
    place = tmp_path_factory.mktemp("two")
    lines = [line[:50] for line in tiny.TEXT.split("\n") if line]
    (place / "texts.jsonl").write_text("\n".join(json.dumps({"text": line}) for line in lines))
    large, small = tiny.tokenizer(420, text=tiny.TEXT[::-1]), tiny.tokenizer(300)
    saved = {
        "teacher": tiny.saved(place / "teacher", tiny.llama(len(large) + 7, initializer_range=0.2), large),
        "student": tiny.saved(place / "student", tiny.llama(len(small) + 3, seed=1), small),
        "gpt2": tiny.saved(place / "gpt2", tiny.gpt2(len(small), seed=2), small),
    }
    return {
        **{name: str(folder) for name, folder in saved.items()},
        "corpus": str(place / "texts.jsonl"),
        "length": 64,
        "batch": 4,
        "steps": 6,
        "lr": 0.01,
        "held_out": 4,
        "objective": {**ULD, "cross_entropy": 0.1},
    }


@pytest.fixture(scope="module")
def settings(given):
    return {name: value for name, value in given.items() if name != "gpt2"}


def test_a_student_learns_from_another_tokenizer_and_is_resumed(settings):
    config = {**settings, "steps": 25, "objective": ULD, "evaluate_every": 5}
    learned = run_task(DistillLm, config)
    losses = curve(learned, "held_out_uld")
    assert losses[-1] < 0.8 * losses[0]
    assert 0.2 < learned.metrics["held_out_aligned"] < 1.0
    assert "held_out_agreement" not in learned.metrics
    progress = {}
    with pytest.raises(KilledError):
        run_task(DistillLm, config, progress=progress, kill_after=8)
    assert equal(run_task(DistillLm, config, progress=progress), learned)


def test_another_architecture_and_stage_learns_alike(settings, given):
    config = {**settings, "student": given["gpt2"], "corpus": {"path": given["corpus"], "pack": False}}
    one, other = (
        run_task(DistillLm, {**config, "zero": {"stage": stage, "whole_below": 0}, "micro_batch": micro})
        for stage, micro in ((0, None), (3, 2))
    )
    assert curve(one, "train_loss") == pytest.approx(curve(other, "train_loss"), rel=1e-4)


@pytest.mark.slow
def test_two_ranks_that_split_all_learn_as_one(settings, tmp_path):
    split = {**settings, "zero": {"stage": 3, "teacher": True, "whole_below": 0}}
    alone, pair = run_task(DistillLm, settings), run_gang(DistillLm, split, ranks=2, folder=tmp_path)
    assert curve(pair, "train_loss") == pytest.approx(curve(alone, "train_loss"), rel=1e-4)
    assert pair.metrics == pytest.approx(alone.metrics, rel=1e-4)


def asked(given, own_name):
    """What the teacher says of three sequences of another model's tokens: retold and plain; how often it was asked."""
    own, other = (LanguageModel(name=given[name]) for name in (own_name, "teacher"))
    packed = sequences(Corpus(path=given["corpus"]), own.tokenizer(), given["length"])
    model, questions, rows = other.load("cpu"), [], np.arange(3)
    model.base_model.register_forward_hook(lambda *_: questions.append(1))
    batch = batch_of(packed, rows, "cpu")
    retold = Retold(packed, own.tokenizer(), other.tokenizer(), None)
    told = Retelling(WholeReader(model), retold, other.vocabulary)(rows, batch)
    return told, len(questions), batch, lambda: Speaking(WholeReader(model), other.vocabulary)(rows, batch)


def test_a_batch_is_one_question_to_the_teacher(given):
    told, questions, batch, _ = asked(given, "student")
    assert questions == 1
    assert told.vocabulary == len(
        LanguageModel(name=given["teacher"]).tokenizer()
    )  # without the head's padding
    assert len(told.places) == batch.labels[:, 1:].numel()


def test_the_same_tokenizer_retold_is_what_the_teacher_says(given):
    told, _, batch, speaks = asked(given, "teacher")
    labelled = batch.labels[:, 1:].flatten() >= 0
    assert (told.places[labelled] >= 0).all()
    torch.testing.assert_close(told.hidden[told.places[labelled]], speaks().hidden[labelled])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"objective": "forward_kl"}, "tokenizers: teacher .* or learn by `uld` alone"),
        ({"objective": {"divergences": ({"name": "uld"}, {"name": "tvd"})}}, "or learn by `uld` alone"),
        ({"on_policy": {}}, "on_policy: goes by the teacher's word on the student's own tokens"),
        ({"spans": {}}, "spans: goes by the teacher's word"),
        ({"keep": "best", "best_by": "held_out_agreement"}, "are not judged by 'held_out_agreement'"),
    ],
)
def test_what_takes_one_tokenizer_is_refused_while_planning(settings, change, message):
    with pytest.raises(ValueError, match=message) as refused:
        DistillLm.describe(DistillLm.Config(**{**settings, **change}), {})
    assert "\n" not in str(refused.value)


def test_labels_of_another_tokenizer_are_refused(settings):
    about = {name: settings[name] for name in ("teacher", "corpus", "length")}
    kept = run_task(LabelTokens, {**about, "labels": {"k": 8}})
    with pytest.raises(ValueError, match="tokenizer_digest is"):
        run_task(DistillLm, settings, {"labels": kept})


def test_a_tokenizer_that_loses_its_text_is_refused(settings, tmp_path):
    other = tiny.word_folder(tmp_path / "words")
    with pytest.raises(ValueError, match="tokens of the teacher do not keep the text"):
        DistillLm.describe(DistillLm.Config(**{**settings, "teacher": other}), {})


def test_two_chat_templates_are_refused(settings, tmp_path):
    chatty = tiny.tokenizer(320, pad=True, chat=True)
    folder = tiny.saved(tmp_path / "chatty", tiny.llama(len(chatty)), chatty)
    (tmp_path / "chats.jsonl").write_text(json.dumps({"prompt": "Ask.", "response": "Answer."}) + "\n")
    config = {**settings, "student": str(folder), "corpus": str(tmp_path / "chats.jsonl"), "held_out": 0}
    with pytest.raises(ValueError, match=r"set `corpus\.chat: false`"):
        DistillLm.describe(DistillLm.Config(**config), {})
    plain = {**config, "corpus": {"path": config["corpus"], "chat": False}, "steps": 1}
    assert run_task(DistillLm, plain).shards[0].curves
