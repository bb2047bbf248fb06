import pytest
import torch
from torch import nn

from tasks.model_distillation.losses.nd import directions, nd, projector


def double(*values):
    return torch.tensor([values], dtype=torch.float64)


@pytest.mark.parametrize(
    ("student", "expected"),
    [((1, 0), 0.5), ((2, 0), 0), ((4, 0), 0), ((0, 1), 1), ((-2, 0), 2), ((3, 4), 0.4)],
)
def test_values_by_hand(student, expected):
    """A teacher's feature of length 2 and the direction (1, 0)."""
    value = nd(double(*map(float, student)), torch.tensor([2.0]).double(), double(1.0, 0.0))
    assert float(value) == pytest.approx(expected)


@pytest.mark.parametrize(("length", "longer"), [(5.0, True), (0.7, False)])
def test_the_norm_is_pressed_up_to_the_teachers_and_no_further(length, longer):
    unit = nn.functional.normalize(double(1.0, 2.0, -0.5), dim=1)
    student = (length * unit).requires_grad_()
    direction, norm = nn.functional.normalize(double(2.0, 1.0, 1.0), dim=1), torch.tensor([2.0]).double()
    nd(student, norm, direction).sum().backward()
    along = float((student.grad * student.detach()).sum())
    cosine = float((unit * direction).sum())
    assert along == pytest.approx(0 if longer else -cosine * length / 2, abs=1e-12)


def test_scaling_both_changes_nothing():
    student, direction = double(1.0, 2.0), double(0.6, 0.8)
    values = [float(nd(a * student, a * torch.tensor([3.0]).double(), direction)) for a in (1, 7)]
    assert values[0] == pytest.approx(values[1])


def test_the_direction_is_that_of_the_class_and_not_of_the_sample():
    """With s = t the loss is 1 - cos(t, c), not 0."""
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    of_class = directions(features.mean(0, keepdim=True)).expand(2, -1)
    value = nd(features, features.norm(dim=1), of_class)
    torch.testing.assert_close(value, torch.full((2,), 1 - 0.5**0.5, dtype=torch.float64))


def test_directions_have_length_one_but_for_a_class_without_a_sample():
    found = directions(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    torch.testing.assert_close(found, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))


def test_projector_only_where_widths_differ():
    assert not list(projector(8, 8, 0.5).parameters())
    made = projector(8, 5, 0.5)
    assert made(torch.randn(4, 8)).shape == (4, 5)
    assert [type(layer) for layer in made] == [nn.BatchNorm1d, nn.Dropout, nn.Linear]
