import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from tasks.dataset_distillation.matching import (
    balance,
    matching_gradient,
    matching_targets,
    perturb,
    student_batches,
)
from tasks.dataset_distillation.synthetic import cross_entropy
from tests.tasks.dataset_distillation.networks import CLASSES, normal, small_network

STEPS = 4
MODEL = small_network()
START = MODEL.initial()
IMAGES = normal(6, 1, 6, 6, seed=1)
CLASS_NUMBERS = torch.arange(CLASSES).repeat(2)
LOGITS = normal(6, CLASSES, seed=2)
SNAPSHOTS = START + 0.1 * normal(3, MODEL.size, seed=3)


def augmented(images, step):
    """A fixed augmentation that differs from step to step and from image to image."""
    return images.roll(step, dims=3) * (1 + 0.1 * normal(len(images), 1, 1, 1, seed=step))


def step_loss(step, weights, images, labels, factor=1.0):
    return factor * cross_entropy(MODEL(weights, augmented(images, step)), labels)


def matched(images=IMAGES, labels=CLASS_NUMBERS, alpha=0.05, epochs=1, between="none", momentum=0.0):
    return matching_gradient(
        step_loss,
        START,
        matching_targets(SNAPSHOTS[:epochs], STEPS, between),
        images,
        labels,
        torch.tensor(alpha, dtype=torch.float64),
        steps=STEPS,
        momentum=momentum,
    )


def mtt_loss(images, labels, alpha):
    """MTT's loss written anew, on the module's own parameter tensors."""
    names = list(MODEL.shapes)
    weights = [value.clone().requires_grad_() for value in MODEL.unflatten(START).values()]
    for step in range(STEPS):
        state = dict(zip(names, weights, strict=True))
        logits = torch.func.functional_call(MODEL.module, state, (augmented(images, step),))
        gradients = torch.autograd.grad(functional.cross_entropy(logits, labels), weights, create_graph=True)
        weights = [weight - alpha * gradient for weight, gradient in zip(weights, gradients, strict=True)]
    target, start = MODEL.unflatten(SNAPSHOTS[0]).values(), MODEL.unflatten(START).values()
    pairs = list(zip(weights, target, start, strict=True))
    moved = sum(functional.mse_loss(weight, end, reduction="sum") for weight, end, _ in pairs)
    return moved / sum(functional.mse_loss(begin, end, reduction="sum") for _, end, begin in pairs)


def test_switches_off_is_mtt():
    images, alpha = (
        IMAGES.clone().requires_grad_(),
        torch.tensor(0.05, dtype=torch.float64, requires_grad=True),
    )
    loss = mtt_loss(images, CLASS_NUMBERS, alpha)
    by_images, by_alpha = torch.autograd.grad(loss, [images, alpha])
    found = matched()
    assert torch.allclose(found.loss, loss, rtol=1e-12)
    assert torch.allclose(found.images, by_images, rtol=1e-9, atol=1e-14)
    assert torch.allclose(found.step_size, by_alpha, rtol=1e-9)
    assert found.labels is None


@pytest.mark.parametrize(("epochs", "between", "loss"), [(1, "none", 1), (2, "equal", 2), (3, "equal", 3)])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_student_that_does_not_move_loses_one_a_target(epochs, between, loss, momentum):
    assert float(matched(alpha=0.0, epochs=epochs, between=between, momentum=momentum).loss) == loss


def test_adaptive_intermediate_targets_count_less():
    assert float(matched(alpha=0.0, epochs=3, between="adaptive").loss) == pytest.approx(1 + 1 / 3 + 2 / 3)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("between", ["none", "equal", "adaptive"])
def test_gradients_match_central_differences(momentum, between):
    def loss(images=IMAGES, labels=LOGITS, alpha=0.05):
        return float(matched(images, labels, alpha, 3, between, momentum).loss)

    found = matched(IMAGES, LOGITS, 0.05, 3, between, momentum)
    step = 1e-5
    for index in [(0, 0, 0, 0), (3, 0, 2, 4), (5, 0, 5, 5)]:
        moved = torch.zeros_like(IMAGES)
        moved[index] = step
        slope = (loss(images=IMAGES + moved) - loss(images=IMAGES - moved)) / (2 * step)
        assert float(found.images[index]) == pytest.approx(slope, rel=1e-6, abs=1e-10)
    moved = torch.zeros_like(LOGITS)
    moved[4, 1] = step
    slope = (loss(labels=LOGITS + moved) - loss(labels=LOGITS - moved)) / (2 * step)
    assert float(found.labels[4, 1]) == pytest.approx(slope, rel=1e-6, abs=1e-10)
    slope = (loss(alpha=0.05 + step) - loss(alpha=0.05 - step)) / (2 * step)
    assert float(found.step_size) == pytest.approx(slope, rel=1e-6)


def test_student_momentum_is_that_of_torch_sgd():
    weights = START.clone().requires_grad_()
    optimizer = torch.optim.SGD([weights], lr=0.05, momentum=0.9)
    for step in range(STEPS):
        optimizer.zero_grad()
        step_loss(step, weights, IMAGES, CLASS_NUMBERS).backward()
        optimizer.step()
    expected = (weights - SNAPSHOTS[0]).square().sum() / (START - SNAPSHOTS[0]).square().sum()
    assert torch.allclose(matched(momentum=0.9).loss, expected.detach(), rtol=1e-12)


def test_targets_stand_where_ast_puts_them():
    found = matching_targets(normal(3, 5), 20, "adaptive")
    assert [target.step for target in found] == [6, 12, 20]
    assert [target.factor for target in found] == pytest.approx([1 / 3, 2 / 3, 1])


@given(st.integers(1, 5), st.integers(5, 50))
def test_the_last_target_is_the_last_snapshot_at_the_last_step(epochs, steps):
    snapshots = normal(epochs, 4)
    for between in ("none", "equal", "adaptive"):
        found = matching_targets(snapshots, steps, between)
        assert found[-1].step == steps
        assert found[-1].factor == 1
        assert torch.equal(found[-1].weights, snapshots[-1])
        assert all(1 <= target.step < steps for target in found[:-1])


def test_balance_of_ast():
    expected = [0.557, 0.733, 1.292, 1.760]
    assert [balance(epoch, 20) for epoch in (0, 9, 10, 19)] == pytest.approx(expected, abs=1e-3)


@given(st.integers(1, 100), st.data())
def test_balance_grows_on_each_half(last, data):
    epoch = data.draw(st.integers(0, last - 1))
    if epoch + 1 not in (last, last // 2):
        assert balance(epoch, last) < balance(epoch + 1, last)


def test_perturbation_is_small_and_touches_convolutions_only():
    weights = {"conv": normal(16, 8, 3, 3), "norm": normal(16), "linear": normal(10, 16)}
    changed = perturb(weights, torch.Generator().manual_seed(1))
    assert changed["norm"] is weights["norm"]
    assert changed["linear"] is weights["linear"]
    direction = changed["conv"] / weights["conv"] - 1
    assert float(direction.norm()) == pytest.approx(1)
    relative = float((changed["conv"] - weights["conv"]).norm() / weights["conv"].norm())
    assert relative == pytest.approx(1 / math.sqrt(weights["conv"].numel()), rel=0.2)


@given(st.integers(1, 20), st.integers(1, 25), st.integers(1, 12))
def test_batches_go_through_whole_permutations(count, size, steps):
    found = student_batches(count, size, steps, torch.Generator().manual_seed(count))
    assert len(found) == steps
    period = math.ceil(count / size)
    for first in range(0, steps - period + 1, period):
        assert sorted(torch.cat(found[first : first + period]).tolist()) == list(range(count))


def test_without_a_batch_size_each_step_takes_all():
    assert all(batch.tolist() == [0, 1, 2, 3] for batch in student_batches(4, None, 3, torch.Generator()))
