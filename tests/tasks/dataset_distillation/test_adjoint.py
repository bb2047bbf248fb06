import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.data import augment
from tasks.dataset_distillation.matching import (
    balance,
    matching_gradient,
    matching_targets,
    perturb,
    student_batches,
)
from tasks.dataset_distillation.synthetic import cross_entropy
from tasks.dataset_distillation.unrolled import unrolled_gradient
from tests.tasks.dataset_distillation.networks import CLASSES, normal, small_network

ALPHA = 0.05
COUNT = 6
IMAGES = normal(COUNT, 1, 6, 6, seed=1)
CLASS_NUMBERS = torch.arange(CLASSES).repeat(2)
LOGITS = normal(COUNT, CLASSES, seed=2)


class Problem:
    """A matching problem with every part of AST, small enough for float64 and central differences."""

    def __init__(
        self, steps=5, momentum=0.9, size=4, between="adaptive", epochs=3, start_epoch=3, dtype=torch.float64
    ):
        self.options = {"steps": steps, "momentum": momentum}
        self.model, self.dtype = small_network(dtype=dtype), dtype
        generator = torch.Generator().manual_seed(steps)
        weights = self.model.initial()
        self.start = self.model.flatten(perturb(self.model.unflatten(weights), generator))
        snapshots = weights + 0.1 * normal(epochs, self.model.size, seed=3).to(dtype)
        self.targets = matching_targets(snapshots, steps, between)
        self.batches = student_batches(COUNT, size, steps, generator)
        self.factor = balance(start_epoch, 20)

    def step_loss(self, step, weights, images, labels):
        batch, noise = self.batches[step], torch.Generator().manual_seed(step)
        augmented = augment(images[batch], "color_crop_cutout_flip_scale_rotate", noise)
        return self.factor * cross_entropy(self.model(weights, augmented), labels[batch])

    def solve(self, method, images=IMAGES, labels=LOGITS, alpha=ALPHA):
        floats = labels.is_floating_point()
        given = images.to(self.dtype), labels.to(self.dtype) if floats else labels
        step_size = torch.tensor(alpha, dtype=self.dtype)
        return method(self.step_loss, self.start, self.targets, *given, step_size, **self.options)


def close(found, expected, tolerance):
    for name in ("loss", "images", "step_size", "labels"):
        ours, theirs = getattr(found, name), getattr(expected, name)
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert float((ours.double() - theirs.double()).norm()) <= tolerance * float(theirs.norm()), name


@settings(deadline=None, max_examples=60)
@given(
    steps=st.integers(1, 6),
    momentum=st.sampled_from([0.0, 0.3, 0.9]),
    size=st.sampled_from([None, 1, 4, 5]),
    between=st.sampled_from(["none", "equal", "adaptive"]),
    epochs=st.integers(1, 4),
    start_epoch=st.integers(0, 19),
    labels=st.sampled_from([CLASS_NUMBERS, LOGITS]),
)
def test_equals_plain_double_backward(steps, momentum, size, between, epochs, start_epoch, labels):
    problem = Problem(steps, momentum, size, between, min(epochs, steps), start_epoch)
    found = problem.solve(matching_gradient, labels=labels)
    close(found, problem.solve(unrolled_gradient, labels=labels), 1e-10)
    assert found.images.norm() > 0


def test_in_single_precision_too():
    found = Problem(dtype=torch.float32).solve(matching_gradient)
    assert found.images.dtype == found.step_size.dtype == torch.float32
    close(found, Problem().solve(unrolled_gradient), 2e-4)


def test_central_differences_with_every_part_of_ast():
    problem, step = Problem(), 1e-5
    found = problem.solve(matching_gradient)

    def slope(name, value, direction):
        ahead, behind = (
            float(problem.solve(matching_gradient, **{name: value + s * direction}).loss)
            for s in (step, -step)
        )
        return (ahead - behind) / (2 * step)

    for name, value in (("images", IMAGES), ("labels", LOGITS)):
        for seed in range(3):
            direction = normal(*value.shape, seed=10 + seed)
            along = float((getattr(found, name) * direction).sum())
            assert along == pytest.approx(slope(name, value, direction), rel=1e-6)
    assert float(found.step_size) == pytest.approx(slope("alpha", ALPHA, 1.0), rel=1e-6)


def test_no_step_moves_nothing():
    found = Problem(steps=0, between="none").solve(matching_gradient)
    assert float(found.loss) == 1
    assert not found.images.any()
    assert float(found.step_size) == 0


def test_what_is_given_stays_as_it_is():
    problem, images, labels = Problem(), IMAGES.clone(), LOGITS.clone()
    start = problem.start.clone()
    found = problem.solve(matching_gradient, images, labels)
    assert torch.equal(images, IMAGES)
    assert torch.equal(labels, LOGITS)
    assert torch.equal(problem.start, start)
    assert not any(tensor.requires_grad for tensor in (images, labels, found.images))


class Held:
    """A tensor that a graph has saved, counted for as long as the graph holds it."""

    now = most = 0

    def __init__(self, tensor):
        self.tensor, self.bytes = tensor.detach(), tensor.nbytes  # with its history it would hold itself
        Held.now += self.bytes
        Held.most = max(Held.most, Held.now)

    def __del__(self):
        Held.now -= self.bytes


def most_held(method, steps):
    """The most bytes that graphs held at a time."""
    Held.now = Held.most = 0
    with torch.autograd.graph.saved_tensors_hooks(Held, lambda held: held.tensor):
        Problem(steps, size=None, between="none").solve(method)
    assert Held.now == 0
    return Held.most


def test_holds_the_graph_of_one_step():
    augmentations = 12  # each has been met by then, and the largest with it
    one = most_held(matching_gradient, augmentations)
    assert most_held(matching_gradient, 2 * augmentations) == one
    assert most_held(unrolled_gradient, 2 * augmentations) > 10 * one
