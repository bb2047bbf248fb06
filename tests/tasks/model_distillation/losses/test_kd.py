import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tasks.model_distillation.losses.dkd import dkd, nckd, tckd
from tasks.model_distillation.losses.kd import kd
from tasks.model_distillation.losses.logit_mse import logit_mse

rows = st.lists(st.floats(-20, 20), min_size=4, max_size=4)
temperatures = st.floats(0.5, 20)


def tensor(values):
    return torch.tensor([values], dtype=torch.float64)


def test_value_by_hand():
    student, teacher = tensor([0.0, math.log(3)]), tensor([math.log(3), 0.0])
    expected = 0.75 * math.log(3) - 0.25 * math.log(3)
    assert float(kd(student, teacher, 1.0)) == pytest.approx(expected)


def test_the_teacher_comes_second():
    student, teacher = tensor([0.0, 0.0]), tensor([5.0, 0.0])
    p = teacher.softmax(-1)
    forward = float((p * (p * 2).log()).sum())
    assert float(kd(student, teacher, 1.0)) == pytest.approx(forward)
    assert float(kd(teacher, student, 1.0)) != pytest.approx(forward, rel=0.1)


@given(rows, rows, temperatures)
def test_is_t_squared_times_the_divergence_of_softened_probabilities(s, t, temperature):
    p, q = (torch.softmax(tensor(values) / temperature, -1) for values in (t, s))
    expected = temperature**2 * (torch.xlogy(p, p) - torch.xlogy(p, q)).sum(-1)
    torch.testing.assert_close(
        kd(tensor(s), tensor(t), temperature), expected, rtol=1e-6, atol=1e-9 * temperature**2
    )


def test_gradients_keep_their_size_as_the_temperature_grows():
    """Without T^2 that at 40 would be a hundredth of that at 4."""
    teacher, norms = tensor([3.0, 1.0, -2.0, 0.5]), []
    for temperature in (4.0, 40.0):
        student = torch.zeros(1, 4, dtype=torch.float64, requires_grad=True)
        kd(student, teacher, temperature).sum().backward()
        norms.append(float(student.grad.norm()))
    assert norms[1] == pytest.approx(norms[0], rel=0.3)


@given(rows, rows)
def test_at_high_temperature_half_the_squared_difference_of_centred_logits(s, t):
    centred = [tensor(values) - tensor(values).mean() for values in (s, t)]
    torch.testing.assert_close(kd(tensor(s), tensor(t), 1e4), logit_mse(*centred) / 2, rtol=1e-2, atol=1e-6)


def test_classes_are_summed_and_not_averaged():
    """A class that neither has anything on changes nothing."""
    student, teacher = tensor([1.0, 0.0]), tensor([0.0, 2.0])
    wider = [torch.cat([z, torch.full((1, 98), -1e3, dtype=torch.float64)], 1) for z in (student, teacher)]
    torch.testing.assert_close(kd(*wider, 1.0), kd(student, teacher, 1.0))


def test_a_class_that_the_teacher_excludes_adds_nothing():
    teacher = tensor([1.0, -math.inf, 0.0])
    student = tensor([0.0, 4.0, 1.0]).requires_grad_()
    value = kd(student, teacher, 2.0)
    value.sum().backward()
    assert bool(value.isfinite().all())
    assert bool(student.grad.isfinite().all())


@given(rows, rows, st.integers(0, 3), temperatures)
def test_dkd_with_the_teachers_own_weight_is_kd(s, t, target, temperature):
    student, teacher, classes = tensor(s), tensor(t), torch.tensor([target])
    beta = 1 - float(torch.softmax(teacher / temperature, -1)[0, target])
    torch.testing.assert_close(
        dkd(student, teacher, classes, temperature, alpha=1.0, beta=beta),
        kd(student, teacher, temperature),
        rtol=1e-6,
        atol=1e-6,
    )


def test_nckd_does_not_see_the_true_class():
    student, teacher = tensor([0.0, 1.0, 2.0, 3.0]), tensor([1.0, 0.0, 5.0, -2.0])
    classes = torch.tensor([2])
    moved = student.clone()
    moved[0, 2] -= 7
    torch.testing.assert_close(nckd(moved, teacher, classes, 4.0), nckd(student, teacher, classes, 4.0))
    assert float(tckd(moved, teacher, classes, 4.0)) != pytest.approx(
        float(tckd(student, teacher, classes, 4.0))
    )


def test_with_two_classes_dkd_is_its_first_part():
    student, teacher, classes = tensor([0.0, 1.0]), tensor([3.0, 0.0]), torch.tensor([0])
    assert float(nckd(student, teacher, classes, 4.0)) == 0
    torch.testing.assert_close(tckd(student, teacher, classes, 4.0), kd(student, teacher, 4.0))


def test_dkd_is_exact_for_a_teacher_that_is_sure():
    """p_y rounds to 1 in float32; by probabilities log(1 - p_y) would be -inf."""
    teacher = torch.tensor([[60.0, 0.0, 1.0]])
    student = torch.tensor([[40.0, 1.0, 0.0]], requires_grad=True)
    value = dkd(student, teacher, torch.tensor([0]), 1.0, alpha=1.0, beta=1.0)
    value.sum().backward()
    exact = dkd(student.detach().double(), teacher.double(), torch.tensor([0]), 1.0, alpha=1.0, beta=1.0)
    torch.testing.assert_close(value.detach().double(), exact, rtol=1e-5, atol=0)
    assert bool(student.grad.isfinite().all())
