"""One forward pass of a student: the head it is allowed to have, its batches, and the agreement with a teacher."""

import numpy as np
import pytest
import torch

from tasks.llm_distillation.losses import DenseTeacher, Mixture, TopKTeacher
from tasks.llm_distillation.text.corpus import Corpus
from tasks.llm_distillation.text.packing import PADDING, Sequences
from tasks.llm_distillation.text.sequences import sequences as packed_sequences
from tasks.llm_distillation.training.lm_step import (
    IGNORED,
    Learner,
    agreement,
    batch_of,
    check_plain_head,
    head_of,
    hidden_states,
)
from tests.tasks.llm_distillation import tiny


@pytest.fixture(scope="module")
def model():
    return tiny.word_llama(tied=False)


@pytest.fixture
def sequences():
    ids = np.arange(12, dtype=np.int32).reshape(2, 6)
    document = np.array([[0, 0, 0, 1, 1, 1], [2, 2, 2, 2, -1, -1]], np.int32)
    position = np.array([[0, 1, 2, 0, 1, 2], [0, 1, 2, 3, 0, 0]], np.int32)
    return Sequences(ids, (position > 0) & (document >= 0), document, position, {})


def test_a_head_that_does_more_than_a_product_is_refused(model):
    check_plain_head(model, "plain")
    check_plain_head(tiny.word_llama().bfloat16(), "narrow")
    with torch.no_grad():
        capped = tiny.word_llama(tied=False)
        capped.lm_head.bias = torch.nn.Parameter(torch.ones(24))
    with pytest.raises(ValueError, match="model capped: its logits are not"):
        check_plain_head(capped, "capped")


def test_of_an_empty_row_nothing_is_learned(sequences):
    batch = batch_of(sequences, np.array([1, -1]), "cpu")
    assert batch.labels[0].tolist() == [IGNORED, 7, 8, 9, IGNORED, IGNORED]
    assert batch.labels[1].tolist() == [IGNORED] * 6


def test_without_a_pad_token_the_end_is_learned_and_the_filling_is_not(model, tmp_path):
    """The end token fills where there is no pad token (GPT-2, Llama): real ends are labels, the others nothing."""
    own = tiny.word_tokenizer()
    assert own.pad_token_id is None
    packed = packed_sequences(Corpus(path=tiny.word_texts(tmp_path / "few.jsonl", rows=7)), own, 16)
    filling = packed.document == PADDING
    assert filling.any()
    assert (packed.ids[filling] == own.eos_token_id).all()
    batch = batch_of(packed, np.arange(len(packed)), "cpu")
    assert (batch.labels == own.eos_token_id).sum() == packed.counts["documents"] == 7
    assert (batch.labels[torch.from_numpy(filling)] == IGNORED).all()
    learner = Learner(model, Mixture(cross_entropy=1.0), vocabulary=24)

    def learned(ids):
        said = learner(batch._replace(ids=ids), None, 1.0, 0.0, "learn")
        return said.total, torch.autograd.grad(said.total, list(model.parameters()))

    other = batch.ids.masked_fill(torch.from_numpy(filling), 7)
    torch.testing.assert_close(learned(batch.ids), learned(other))


def test_the_loss_is_that_of_whole_logits(model, sequences):
    batch = batch_of(sequences, np.arange(2), "cpu")
    said = Learner(model, Mixture(cross_entropy=0.5), vocabulary=20)(batch, None, 1.0, 0.0, "learn")
    logits = model(input_ids=batch.ids, position_ids=batch.position, use_cache=False).logits[:, :-1, :20]
    whole = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), batch.labels[:, 1:].flatten(), reduction="sum"
    )
    torch.testing.assert_close(said.terms["cross_entropy"], whole.detach())
    torch.testing.assert_close(said.total, whole / 2)


def test_written_text_has_no_cross_entropy_and_judging_always_tells_it(model, sequences):
    batch = batch_of(sequences, np.arange(2), "cpu")
    mixture = Mixture(divergences=({"name": "forward_kl"},), cross_entropy=0.25)
    learner = Learner(model, mixture, vocabulary=24)
    teacher = DenseTeacher(
        hidden_states(model, batch)[:, :-1].flatten(0, 1).detach(), head_of(model).detach()
    )
    read, written, judged = (
        learner(batch, teacher, 1.0, 0.0, purpose) for purpose in ("learn", "learn_written", "judge")
    )
    torch.testing.assert_close(written.total.item(), 0.0, atol=1e-4, rtol=0)
    torch.testing.assert_close(judged.total, read.total)
    assert "cross_entropy" not in written.terms
    assert judged.terms["agreement"] == (batch.labels[:, 1:] != IGNORED).sum()


def test_agreement_counts_the_same_likeliest_tokens():
    head = torch.eye(4)
    hidden, labels = torch.eye(4)[[0, 1, 2, 3]], torch.tensor([1, 1, IGNORED, 1])
    dense = DenseTeacher(torch.eye(4)[[0, 2, 2, 3]], head)
    assert agreement(hidden, head, labels, dense) == 2
    ids = torch.tensor([[0, 1], [1, 2], [2, 0], [0, 3]])
    top = TopKTeacher(ids, torch.tensor([[-0.1, -2.0]] * 3 + [[-2.0, -0.1]]))
    assert agreement(hidden, head, labels, top) == 3
