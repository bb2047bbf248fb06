"""What holds of every loss: zero where student and teacher agree, right gradients, no infinities, right shapes."""

import pytest
import torch

from tasks.model_distillation.losses.dhkd import binary_kl, binary_kl_norm
from tasks.model_distillation.losses.dist import dist
from tasks.model_distillation.losses.dkd import dkd
from tasks.model_distillation.losses.fitnet import fitnet
from tasks.model_distillation.losses.kd import kd
from tasks.model_distillation.losses.logit_mse import logit_mse
from tasks.model_distillation.losses.nd import nd

CLASSES = torch.tensor([0, 3, 4, 1, 1, 2])


def normal(*shape, seed=0, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


def along_rows(student, teacher):
    """ND with the teacher's rows as features and as directions, which is 0 where they agree."""
    return nd(student, teacher.norm(dim=1), torch.nn.functional.normalize(teacher, dim=1))


LOSSES = {
    "kd": lambda s, t: kd(s, t, 3.0),
    "dkd": lambda s, t: dkd(s, t, CLASSES, 3.0, alpha=0.7, beta=4.0),
    "dist": lambda s, t: dist(s, t, 3.0, beta=2.0, gamma=0.5),
    "logit_mse": logit_mse,
    "binary_kl": lambda s, t: binary_kl(s, t, 2.0),
    "binary_kl_norm": lambda s, t: binary_kl_norm(s, t, 2.0),
    "fitnet": fitnet,
    "nd": along_rows,
}
each_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
of_samples = pytest.mark.parametrize(
    "loss",
    [LOSSES[name] for name in LOSSES if name != "dist"],
    ids=[name for name in LOSSES if name != "dist"],
)


@each_loss
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("scale", [0.1, 2.0, 50.0])
def test_zero_where_the_student_is_the_teacher(loss, dtype, scale):
    logits = normal(6, 5, scale=scale).to(dtype)
    value = loss(logits, logits)
    torch.testing.assert_close(value, torch.zeros_like(value), atol=1e-5, rtol=0)


@each_loss
def test_positive_where_they_differ(loss):
    assert bool((loss(normal(6, 5), normal(6, 5, seed=1)) > 1e-3).all())


@each_loss
def test_gradients_are_those_of_finite_differences(loss):
    student, teacher = normal(6, 5).requires_grad_(), normal(6, 5, seed=1)
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher), student)


@each_loss
def test_the_teacher_gets_no_gradient(loss):
    student, teacher = normal(6, 5).requires_grad_(), normal(6, 5, seed=1).requires_grad_()
    loss(student, teacher).sum().backward()
    assert student.grad is not None
    assert teacher.grad is None


@of_samples
def test_one_value_a_sample_that_does_not_see_the_others(loss):
    student, teacher = normal(6, 5), normal(6, 5, seed=1)
    value = loss(student, teacher)
    assert value.shape == (6,)
    other = student.clone()
    other[1:] += 1.5 * normal(5, 5, seed=2)
    assert float(loss(other, teacher)[0]) == pytest.approx(float(value[0]))


@each_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_finite_in_value_and_gradient_at_the_ends_of_the_range(loss, dtype):
    student = torch.tensor([[2e4, -2e4, 0, 5, -5], [0, 0, 0, 0, 0]]).repeat(3, 1).to(dtype).requires_grad_()
    teacher = torch.tensor([[-2e4, 2e4, 0, -5, 5], [1e4, 0, 0, 0, 0]]).repeat(3, 1).to(dtype)
    value = loss(student, teacher)
    assert value.dtype == torch.float32
    value.sum().backward()
    assert bool(value.isfinite().all())
    assert bool(student.grad.isfinite().all())


@pytest.mark.parametrize("name", ["kd", "dist", "logit_mse", "binary_kl", "binary_kl_norm", "fitnet"])
def test_another_number_of_classes_is_refused_and_never_broadcast(name):
    with pytest.raises(ValueError, match=r"the student gives \(6, 5\), the teacher \(6, 1\)"):
        LOSSES[name](normal(6, 5), normal(6, 1))
