import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tasks.model_distillation.losses.dist import correlation, dist


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(st.floats(0.01, 100), st.floats(-10, 10))
def test_correlation_does_not_see_scale_nor_shift(scale, shift):
    first = normal(3, 7)
    torch.testing.assert_close(correlation(first, scale * first + shift), torch.ones(3).double())
    torch.testing.assert_close(correlation(first, shift - scale * first), -torch.ones(3).double())


def test_correlation_is_pearsons():
    first, second = normal(1, 9), normal(1, 9, seed=1)
    expected = torch.corrcoef(torch.cat([first, second]))[0, 1]
    assert float(correlation(first, second)) == pytest.approx(float(expected))


def test_value_by_hand():
    student, teacher = normal(5, 4), normal(5, 4, seed=1)
    p, q = (torch.softmax(logits / 3, 1) for logits in (student, teacher))
    rows = torch.stack([torch.corrcoef(torch.stack([p[i], q[i]]))[0, 1] for i in range(5)]).mean()
    columns = torch.stack([torch.corrcoef(torch.stack([p[:, k], q[:, k]]))[0, 1] for k in range(4)]).mean()
    found = dist(student, teacher, 3.0, beta=2.0, gamma=0.5)
    assert float(found) == pytest.approx(9 * (2 * (1 - float(rows)) + 0.5 * (1 - float(columns))))


def test_a_class_of_tiny_probabilities_counts_like_any_other():
    """In float32 the squares of its probabilities are 0."""
    logits = torch.tensor([[0.0, 1.0, -70.0], [1.0, 0.0, -71.0], [0.5, 0.2, -69.0]])
    assert float(dist(logits, logits, 1.0, beta=1.0, gamma=1.0)) == pytest.approx(0, abs=1e-5)


def test_a_constant_row_has_no_direction_and_no_infinite_gradient():
    student = torch.zeros(3, 4, requires_grad=True)
    value = dist(student, normal(3, 4).float(), 4.0, beta=1.0, gamma=1.0)
    value.backward()
    assert float(value.detach()) == pytest.approx(32)
    assert bool(student.grad.isfinite().all())
