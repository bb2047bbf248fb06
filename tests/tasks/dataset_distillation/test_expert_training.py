import pytest
import torch
from torch.nn import functional

from tasks.dataset_distillation.expert_training import (
    Batch,
    Optimizer,
    expert_loss,
    gradient_penalty,
    learning_rate,
    loss_scale,
    restarts,
    train_epoch,
)
from tests.tasks.dataset_distillation.networks import normal, small_network

MODEL = small_network()
IMAGES, LABELS = normal(10, 1, 6, 6, seed=1), torch.arange(10) % 3


def test_the_loss_scale_warms_up_over_ten_epochs():
    expected = [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1, 1]
    assert [loss_scale(epoch) for epoch in range(12)] == pytest.approx(expected)
    assert loss_scale(49) == 1


def test_the_penalty_of_a_linear_model_is_that_of_its_weights():
    """f(x) = A x has the same slope everywhere: the sum of A's rows, whose norm over channels is known."""
    matrix = normal(3, 2 * 4 * 4)

    def linear(weights, images):
        return images.flatten(1) @ weights.T

    norms = matrix.sum(dim=0).view(2, 4, 4).norm(dim=0)
    expected = 2 * (norms - 1).square().mean()
    assert torch.allclose(gradient_penalty(linear, matrix, normal(5, 2, 4, 4)), expected, rtol=1e-12)


def test_the_penalty_is_that_of_slopes_taken_image_by_image():
    found = gradient_penalty(MODEL, MODEL.initial(), IMAGES).detach()
    total = 0.0
    for image in IMAGES:
        slope = torch.autograd.functional.jacobian(lambda x: MODEL(MODEL.initial(), x[None])[0].sum(), image)
        total += float(((slope.square().sum(dim=0).sqrt() - 1) ** 2).sum())
    assert float(found) == pytest.approx(2 * total / (10 * 6 * 6), rel=1e-9)


def test_the_penalty_has_a_finite_gradient_where_the_slope_is_zero():
    weights = MODEL.initial().zero_().requires_grad_()
    penalty = gradient_penalty(MODEL, weights, IMAGES)
    (gradient,) = torch.autograd.grad(penalty, weights)
    assert penalty.detach() == 2
    assert gradient.isfinite().all()


def test_descending_the_penalty_alone_brings_the_slopes_near_one():
    weights = MODEL.initial()
    before = gradient_penalty(MODEL, weights, IMAGES).detach()
    for _ in range(60):
        variable = weights.requires_grad_()
        (gradient,) = torch.autograd.grad(gradient_penalty(MODEL, variable, IMAGES), variable)
        weights = (weights - 0.05 * gradient).detach()
    assert gradient_penalty(MODEL, weights, IMAGES).detach() < 0.5 * before


def test_the_switches_add_up():
    weights, batch = MODEL.initial(), Batch(IMAGES, IMAGES.flip(3), LABELS)
    plain = functional.cross_entropy(MODEL(weights, batch.augmented), LABELS)
    torch.testing.assert_close(expert_loss(MODEL, weights, batch), plain)
    both = expert_loss(MODEL, weights, batch, scale=0.5, penalty=0.25)
    expected = 0.5 * plain + 0.25 * gradient_penalty(MODEL, weights, IMAGES)
    torch.testing.assert_close(both, expected)


def test_the_loss_of_a_stack_is_that_of_each_member():
    weights = MODEL.initial() + normal(2, MODEL.size, seed=2) / 10
    batch = Batch(
        normal(2, 10, 1, 6, 6), normal(2, 10, 1, 6, 6, seed=1), torch.stack([LABELS, LABELS.flip(0)])
    )
    alone = [
        expert_loss(MODEL, own, Batch(*parts), scale=0.5, penalty=0.25)
        for own, *parts in zip(weights, *batch, strict=True)
    ]
    torch.testing.assert_close(
        expert_loss(MODEL.stacked, weights, batch, scale=0.5, penalty=0.25), torch.stack(alone)
    )


def test_the_schedule_drops_once_after_the_middle():
    rates = [learning_rate(epoch, lr=1.0, decay=0.1, epochs=50) for epoch in range(50)]
    assert rates == [1.0] * 27 + [0.1] * 23
    assert [epoch for epoch in range(50) if restarts(epoch, decay=0.6, epochs=50)] == [27]
    assert not any(restarts(epoch, decay=1.0, epochs=50) for epoch in range(50))


@pytest.mark.parametrize(("momentum", "decay"), [(0.0, 0.0), (0.9, 1e-3)])
def test_an_epoch_is_that_of_torch_sgd(momentum, decay):
    reference = MODEL.initial().requires_grad_()
    sgd = torch.optim.SGD([reference], lr=0.1, momentum=momentum, weight_decay=decay)
    pieces = zip(IMAGES.split(4), LABELS.split(4), strict=True)
    batches = [Batch(images, images, labels) for images, labels in pieces]
    for batch in batches:
        sgd.zero_grad()
        functional.cross_entropy(MODEL(reference, batch.images), batch.labels).backward()
        sgd.step()

    def loss(weights, batch):
        return functional.cross_entropy(MODEL(weights, batch.images), batch.labels)

    weights = MODEL.initial()
    mean = train_epoch(loss, weights, torch.zeros_like(weights), Optimizer(0.1, momentum, decay), batches)
    assert torch.allclose(weights, reference.detach(), rtol=1e-12)
    assert mean > 0
