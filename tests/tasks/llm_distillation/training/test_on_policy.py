"""When a student learns from its own text, and how the text is corrected."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tasks.llm_distillation.text.packing import Sequences
from tasks.llm_distillation.training.on_policy import (
    Buffer,
    error_place,
    grown,
    origin,
    prompts_of,
    token_divergence,
)

SHARE = st.floats(0, 1)


@given(SHARE, SHARE)
def test_without_a_buffer_the_share_is_written(draw, share):
    assert origin(draw, share, 0.0, filled=False) == ("written" if draw < share else "corpus")


@given(SHARE, SHARE, SHARE)
def test_a_full_buffer_is_replayed_ever_more(draw, share, done):
    found = origin(draw, share, done, filled=True)
    expected = "corpus" if draw >= share else "written" if draw < share * (1 - done) else "replayed"
    assert found == expected
    assert origin(draw, share, done, filled=False) != "replayed"


def test_the_share_grows_while_the_loss_does_not_fall():
    buffer = Buffer(growth=0.25)
    assert grown(0.5, 2.0, None, buffer) == 0.5
    assert grown(0.5, 1.9, 2.0, buffer) == 0.5
    assert grown(0.5, 2.0, 2.0, buffer) == 0.75
    assert grown(0.9, 2.1, 2.0, buffer) == 1.0
    assert grown(0.5, 2.05, 2.0, Buffer(margin=0.1)) == 0.5


def test_prompts_end_where_learning_begins():
    ids = np.arange(20, dtype=np.int32).reshape(2, 10)
    document = np.array([[0] * 4 + [1] * 5 + [-1], [2] * 9 + [-1]], np.int32)
    loss_mask = np.zeros((2, 10), bool)
    loss_mask[0, 2:4] = loss_mask[0, 7:9] = True  # prompts of 2 and 3 tokens
    loss_mask[1, 1:9] = True  # plain text
    sequences = Sequences(ids, loss_mask, document, np.zeros((2, 10), np.int32), {})
    assert prompts_of(sequences, range(2), at_least=4) == [[0, 1], [4, 5, 6], [10, 11, 12, 13]]
    assert prompts_of(sequences, range(1, 2), at_least=9) == []


def test_divergence_of_tokens_is_that_of_whole_logits():
    torch.manual_seed(0)
    student, teacher = ((torch.randn(6, d), torch.randn(9, d)) for d in (3, 5))
    divergence, likeliest = token_divergence(student, teacher, vocabulary=7)
    q, p = ((hidden @ head[:7].T).softmax(-1) for hidden, head in (student, teacher))
    torch.testing.assert_close(divergence, (p * (p / q).log()).sum(-1))
    assert torch.equal(likeliest, p.argmax(-1))
    same, _ = token_divergence(teacher, teacher, vocabulary=7)
    torch.testing.assert_close(same, torch.zeros(6))


@given(st.lists(st.tuples(st.floats(0, 9), st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=12))
def test_the_worst_token_disagrees_and_none_that_does_is_worse(tokens):
    divergence, written, likeliest = (torch.tensor(column) for column in zip(*tokens, strict=True))
    place = error_place(divergence, written, likeliest)
    wrong = (written != likeliest).nonzero().flatten().tolist()
    if not wrong:
        assert place is None
    else:
        assert place in wrong
        assert divergence[place] == max(divergence[other] for other in wrong)


def test_a_student_like_its_teacher_is_not_corrected():
    tokens = torch.tensor([3, 1, 2])
    assert error_place(torch.tensor([0.5, 0.1, 0.0]), tokens, tokens) is None


def test_settings():
    with pytest.raises(ValueError, match="capacity"):
        Buffer(capacity=0)
