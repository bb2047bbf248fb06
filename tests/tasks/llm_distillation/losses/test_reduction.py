import pytest
import torch

from tasks.llm_distillation.losses import Divergence, Mixture, distillation_loss, mean_over_tokens

MIXTURE = Mixture(divergences=(Divergence(name="forward_kl"),), cross_entropy=0.5)
SPLITS = {
    "one batch of eight": [[[0, 1, 2, 3, 4, 5, 6, 7]]],
    "eight of one": [[[n] for n in range(8)]],
    "two ranks, two parts": [[[0, 1], [2, 3]], [[4, 5], [6, 7]]],
    "uneven ranks": [[[0, 1, 2], [3, 4]], [[5], [6, 7]]],
    "a rank without a valid token": [[[0]], [[1, 2, 3, 4, 5, 6, 7]]],
}
"""Ranks, their micro-batches, the sequences of each."""


def trained(case, ranks):
    """The head's gradient as a trainer makes it: mean over ranks of the mean over accumulation steps."""
    positions = torch.arange(32).reshape(8, 4)
    labels = case.labels.clone()
    labels[:4] = -100
    tokens = int((labels != -100).sum())
    whole, steps = torch.zeros_like(case.head), max(len(parts) for parts in ranks)
    for parts in ranks:
        for sequences in parts:
            at = positions[sequences].flatten()
            teacher = case.teacher.take(at)
            sums = distillation_loss(case.hidden[at], case.head, labels[at], MIXTURE, teacher, vocabulary=40)
            loss = mean_over_tokens(sums.total, tokens, averaged_over=len(ranks) * steps)
            whole += torch.autograd.grad(loss, case.head)[0] / steps / len(ranks)
    return whole


@pytest.mark.parametrize("name", list(SPLITS))
def test_the_split_of_a_step_changes_nothing(long_case, name):
    expected = trained(long_case, SPLITS["one batch of eight"])
    torch.testing.assert_close(trained(long_case, SPLITS[name]), expected, rtol=1e-10, atol=1e-10)


def test_a_step_without_a_valid_token_is_said():
    with pytest.raises(ValueError, match="no valid token"):
        mean_over_tokens(torch.tensor(0.0), 0)
