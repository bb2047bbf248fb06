"""A method's terms: weights, epochs, mixed views, and reduction by the samples of the whole step."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from tasks.model_distillation.losses.kd import kd
from tasks.model_distillation.losses.nd import directions
from tasks.model_distillation.methods import METHODS, Method
from tasks.model_distillation.ranks import Ranks
from tasks.model_distillation.student_loss import Objective, Sizes, Step, Targets
from tests.tasks.model_distillation.students import CLASSES, FEATURES, TEACHER_FEATURES, Plain, Rows

SEPARABLE = ["control", "kd", "dkd", "logit_mse", {"name": "dhkd", "dhkd": {"head": "linear"}}]


def objective(method):
    torch.manual_seed(0)
    means = torch.eye(CLASSES, TEACHER_FEATURES).double()
    sizes = Sizes(FEATURES, CLASSES, TEACHER_FEATURES)
    return Objective(Method.model_validate(method), sizes, directions(means)).double()


def step(samples, epoch=0, epochs=1):
    return Step(epoch, epochs, samples, seed=3, ranks=Ranks())


@pytest.mark.parametrize("name", METHODS)
def test_every_term_reaches_the_student(name):
    images, targets = Rows().batch(0, Rows().numbers(0))
    made, student = objective(name), Plain()
    terms = made(student, images, targets, step(40, epoch=1, epochs=2))
    assert terms.keys() == made.method.terms.keys()
    for term in terms.values():
        (gradient,) = torch.autograd.grad(term, student.body.weight, retain_graph=True)
        assert float(gradient.abs().max()) > 0


@pytest.mark.parametrize("method", SEPARABLE)
def test_parts_of_any_size_add_up_to_the_whole(method):
    """So that a rank, or a last step, of fewer samples has no more say for each of them."""
    rows, student, made = Rows(), Plain(), objective(method)
    images, targets = rows.batch(0, rows.numbers(0))
    whole = made(student, images, targets, step(40))
    parts = [
        made(student, *rows.batch(0, rows.numbers(0)[part]), step(40)) for part in (slice(0, 9), slice(9, 40))
    ]
    for name, value in whole.items():
        torch.testing.assert_close(sum(part[name] for part in parts), value)


def test_terms_are_weighted_means():
    rows, student = Rows(), Plain()
    images, targets = rows.batch(0, rows.numbers(0))
    found = objective("kd")(student, images, targets, step(40))
    logits = student(images)
    torch.testing.assert_close(found["ce"], 0.1 * cross_entropy(logits, targets.classes))
    torch.testing.assert_close(found["kd"], 0.9 * kd(logits, targets.logits, 4.0).mean())


def test_a_term_counts_from_its_warm_up_to_its_end():
    rows, student = Rows(), Plain()
    images, targets = rows.batch(0, rows.numbers(0))
    made = objective({"name": "kd", "kd": {"warmup": 0.5, "until": 0.75}})
    found = [made(student, images, targets, step(40, epoch, 4)).get("kd") for epoch in range(4)]
    full = objective("kd")(student, images, targets, step(40))["kd"]
    assert found[0] is found[3] is None
    torch.testing.assert_close(found[1], full / 2)
    torch.testing.assert_close(found[2], full)


def test_cross_entropy_of_a_mixed_view_follows_its_shares():
    student, images = Plain(), Rows(2).images
    classes, partners = torch.tensor([0, 1]), torch.tensor([2, 1])
    targets = Targets(classes, partners, torch.tensor([0.75, 1.0]).double())
    found = objective("control")(student, images, targets, step(2))["ce"]
    logits = student(images).log_softmax(1)
    expected = -(0.75 * logits[0, 0] + 0.25 * logits[0, 2] + logits[1, 1]) / 2
    torch.testing.assert_close(found, expected)


def test_multi_sample_dropout_averages_over_masks_whatever_the_term():
    rows, student = Rows(), Plain()
    images, targets = rows.batch(0, rows.numbers(0))
    plain = objective("kd")(student, images, targets, step(40))
    kept = objective({"name": "kd", "dropout": {"samples": 5, "rate": 0.0}})
    for name, value in kept(student, images, targets, step(40)).items():
        torch.testing.assert_close(value, plain[name])


def test_ensloss_draws_from_the_steps_seed_alone():
    rows, student = Rows(), Plain()
    images, targets = rows.batch(0, rows.numbers(0))
    made = objective("ensloss")
    first, again = (made(student, images, targets, step(40))["ensloss"] for _ in range(2))
    other = made(student, images, targets, Step(0, 1, 40, seed=4, ranks=Ranks()))["ensloss"]
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
