import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from orchestrator.task import Progress, derive_seed
from tasks.dataset_distillation.recipe import Labelled, Recipe, Scores, Training, accuracy, train_and_test
from tasks.nets import Network, build
from tests.tasks.dataset_distillation.networks import normal

SHAPE, CLASSES = (1, 8, 8), 3
LABELS = torch.arange(CLASSES).repeat_interleave(6)
MEANS = normal(CLASSES, *SHAPE, seed=9)
TRAIN = Labelled((MEANS[LABELS] + 0.5 * normal(18, *SHAPE)).float(), LABELS)
TEST = Labelled((MEANS[LABELS] + normal(18, *SHAPE, seed=1)).float(), LABELS)


def network(seed=0):
    return build(Network(width=4, depth=1), SHAPE, CLASSES, seed)


def training(seed=0, train=TRAIN, **changed):
    usual = {"epochs": 7, "learning_rate": 0.05, "batch_size": 5, "augment": "crop_flip"}
    return Training(network(), train, Recipe(**usual | changed), seed)


def weights(run):
    return torch.cat([parameter.detach().flatten() for parameter in run.module.parameters()])


def test_it_is_sgd_with_momentum_weight_decay_and_one_decay_that_drops_the_momentum():
    run = training(augment="")
    for _ in range(7):
        run.run_epoch()
    module = network()
    velocity = [torch.zeros_like(parameter) for parameter in module.parameters()]
    rate = 0.05
    for epoch in range(1, 8):
        order = torch.randperm(18, generator=torch.Generator().manual_seed(derive_seed(0, epoch)))
        for rows in order.split(5):
            loss = cross_entropy(module(TRAIN.images[rows]), LABELS[rows])
            gradients = torch.autograd.grad(loss, list(module.parameters()))
            with torch.no_grad():
                for value, moved, gradient in zip(module.parameters(), velocity, gradients, strict=True):
                    moved.mul_(0.9).add_(gradient + 5e-4 * value)
                    value -= rate * moved
        if epoch == 7 // 2 + 1:
            rate, velocity = 0.1 * rate, [torch.zeros_like(moved) for moved in velocity]
    expected = torch.cat([parameter.detach().flatten() for parameter in module.parameters()])
    torch.testing.assert_close(weights(run), expected, rtol=1e-5, atol=1e-6)


def test_the_loss_of_an_epoch_is_the_mean_over_its_images():
    run = training(learning_rate=1e-30, augment="")
    with torch.no_grad():
        expected = cross_entropy(run.module(TRAIN.images), LABELS)
    torch.testing.assert_close(run.run_epoch(), expected)


def test_one_hot_probabilities_train_as_hard_labels_do():
    soft = Labelled(TRAIN.images, torch.nn.functional.one_hot(LABELS).float())
    hard_run, soft_run = training(), training(train=soft)
    torch.testing.assert_close(hard_run.run_epoch(), soft_run.run_epoch())
    torch.testing.assert_close(weights(hard_run), weights(soft_run))


def test_the_seed_alone_decides():
    runs = [training(seed) for seed in (1, 1, 2)]
    losses = [[float(run.run_epoch()) for _ in range(3)] for run in runs]
    assert losses[0] == losses[1] != losses[2]
    assert torch.equal(weights(runs[0]), weights(runs[1]))


@pytest.mark.parametrize("stop", range(1, 7))
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_training_goes_on_to_the_same_bits_from_any_epoch(stop, momentum):
    whole, logged, saved = training(momentum=momentum), [], []

    def log(metrics, step):
        logged.append((step, dict(metrics)))

    scores = train_and_test(whole, TEST, 2, log=log, save=lambda make: saved.append(make()))
    assert [made.facts["epoch"] for made in saved] == [1, 2, 3, 4, 5, 6]
    again, relogged = training(momentum=momentum), []
    start = Progress(saved[stop - 1].tensors, saved[stop - 1].facts)
    rescored = train_and_test(
        again, TEST, 2, log=lambda metrics, step: relogged.append((step, dict(metrics))), start=start
    )
    assert rescored == scores
    assert relogged == [entry for entry in logged if entry[0] > stop]
    assert torch.equal(weights(whole), weights(again))


def test_it_tests_as_often_as_asked_and_after_the_last_epoch():
    logged = []
    run = training()
    scores = train_and_test(run, TEST, 3, log=lambda metrics, step: logged.append((step, metrics)))
    assert [step for step, _ in logged] == [3, 6, 7]
    tested = {step: metrics["test_accuracy"] for step, metrics in logged}
    assert scores == Scores(tested[7], max(tested.values()), scores.best_epoch, logged[-1][1]["train_loss"])
    assert scores.best_epoch == min(step for step, value in tested.items() if value == scores.best_accuracy)
    assert math.isclose(scores.accuracy, accuracy(run.module, TEST))


def test_accuracy_is_the_fraction_of_right_answers_whatever_the_batch(monkeypatch):
    module = network(3)
    expected = (module(TEST.images).argmax(1) == LABELS).float().mean().item()
    for batch in (1, 7, 1024):
        monkeypatch.setattr("tasks.dataset_distillation.recipe.TEST_BATCH", batch)
        assert accuracy(module, TEST) == pytest.approx(expected)


def test_a_separable_set_is_learned():
    assert train_and_test(training(epochs=60, augment=""), TEST, 60).accuracy >= 0.9
