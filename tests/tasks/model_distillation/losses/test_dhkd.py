import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import logsigmoid

from tasks.model_distillation.losses.dhkd import aligned, binary_kl, binary_kl_norm, head

vectors = st.lists(st.floats(-5, 5), min_size=6, max_size=6)


def double(*values):
    return torch.tensor([values], dtype=torch.float64)


@pytest.mark.parametrize(("difference", "expected"), [(0.5, 0.031169), (3.0, 1.033064), (-7.0, 4.346413)])
def test_values_by_hand(difference, expected):
    for sign in (1, -1):
        value = binary_kl_norm(double(1.0 + sign * difference), double(1.0), 2.0)
        assert float(value) == pytest.approx(expected, abs=1e-6)


@given(st.floats(-30, 30), st.floats(-30, 30), st.floats(0.5, 8))
def test_norm_is_the_divergence_of_half_from_the_sigmoid_of_the_difference(s, t, temperature):
    x = double(s - t) / temperature
    expected = temperature**2 * (
        -0.5 * (logsigmoid(x) + logsigmoid(-x)) - torch.log(torch.tensor(2.0).double())
    )
    found = binary_kl_norm(double(s), double(t), temperature)
    torch.testing.assert_close(found, expected.sum(-1), rtol=1e-6, atol=1e-9)


def test_gradient_of_the_norm_form_is_a_tanh():
    student, teacher = double(1.0, -3.0, 9.0).requires_grad_(), double(0.0, 1.0, 2.0)
    binary_kl_norm(student, teacher, 2.0).sum().backward()
    torch.testing.assert_close(student.grad, torch.tanh((student.detach() - teacher) / 4))


def test_plain_form_by_hand():
    p, q = double(1.0, -2.0).sigmoid(), double(0.5, 1.0).sigmoid()
    each = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    found = binary_kl(double(1.0, 2.0), double(2.0, -4.0), 2.0)
    torch.testing.assert_close(found, 4 * each.sum(1))


def test_a_difference_that_rounds_the_sigmoid_to_one_stays_finite():
    student = torch.tensor([[200.0, -200.0]], requires_grad=True)
    value = binary_kl_norm(student, torch.zeros(1, 2), 1.0)
    value.sum().backward()
    assert float(value.detach()) == pytest.approx(2 * (100 - 0.6931), rel=1e-4)
    torch.testing.assert_close(student.grad, torch.tensor([[0.5, -0.5]]))


def test_a_shift_of_all_logits_matters():
    student, teacher = double(1.0, 2.0, 3.0), double(1.0, 2.0, 3.0)
    assert float(binary_kl_norm(student + 4, teacher, 2.0)) > 1


@given(vectors, vectors)
def test_alignment_projects_only_where_the_two_disagree(first, second):
    task, other = ([torch.tensor(part).double() for part in (v[:2], v[2:])] for v in (first, second))
    found = aligned(task, other)
    product = sum(float((a * b).sum()) for a, b in zip(task, other, strict=True))
    kept = [total - own for total, own in zip(found, task, strict=True)]
    if product >= 0:
        for one, expected in zip(kept, other, strict=True):
            torch.testing.assert_close(one, expected)
    after = sum(float((a * b).sum()) for a, b in zip(task, kept, strict=True))
    assert after >= -1e-6


def test_alignment_leaves_the_head_that_the_task_does_not_reach():
    task = [torch.tensor([1.0, 0.0]), torch.zeros(3)]
    other = [torch.tensor([-2.0, 1.0]), torch.tensor([1.0, 2.0, 3.0])]
    backbone, auxiliary = aligned(task, other)
    torch.testing.assert_close(backbone, torch.tensor([1.0, 1.0]))
    assert torch.equal(auxiliary, other[1])


def test_alignment_is_one_sided():
    """The task's own gradient comes through whole; it is distillation's that gives way."""
    found = aligned([torch.tensor([3.0, 0.0])], [torch.tensor([-9.0, 0.0])])
    torch.testing.assert_close(found[0], torch.tensor([3.0, 0.0]))


def test_without_a_task_gradient_alignment_changes_nothing():
    other = [torch.tensor([1.0, -1.0])]
    assert torch.equal(aligned([torch.zeros(2)], other)[0], other[0])


@pytest.mark.parametrize(
    ("kind", "parameters"), [("linear", 16 * 10 + 10), ("nonlinear", 16 * 200 + 600 + 2010)]
)
def test_heads(kind, parameters):
    made = head(kind, 16, 10)
    assert made(torch.randn(4, 16)).shape == (4, 10)
    assert sum(value.numel() for value in made.parameters()) == parameters
