"""Cells that train: stacked as one by one, resumed as undisturbed, and each loss by its own rule."""

import pytest
import torch
from torch import nn

from tasks.ensloss.stack import Stack
from tasks.ensloss.training import Data, Members, Recipe, Training
from tasks.nets.scoring import ScoringNetwork, build_scoring
from tests.tasks.harness import KilledError

MLP = ScoringNetwork(name="tabular_mlp", width=16, depth=2)
LOSSES = ["ensloss", "bce", "exponential", "hinge", "ensloss", "focal"]
RATES = [0.05, 0.05, 0.5, 0.02, 0.02, 0.05]


def recipe(**changes) -> Recipe:
    usual = {
        "epochs": 4,
        "batch_size": 12,
        "momentum": 0.9,
        "weight_decay": 1e-3,
        "test_every": 2,
        "lam": 0.0,
    }
    return Recipe(**(usual | {"redraw_every": None} | changes))


def data(shape=(5,), splits=2, dtype=torch.float64) -> Data:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(splits, 60, *shape, generator=generator, dtype=dtype)
    labels = (inputs.flatten(2).sum(2) > 0).to(dtype) * 2 - 1
    return Data(inputs[:, :48], labels[:, :48], inputs[:, 48:], labels[:, 48:])


def training(
    members=range(6), network=MLP, shape=(5,), rates=RATES, dtype=torch.float64, **changes
) -> Training:
    """Of these of the six cells; the cells' seeds do not depend on who else is there."""
    members = list(members)
    modules = [build_scoring(network, shape, member).to(dtype) for member in members]
    told = Members(
        losses=[LOSSES[member] for member in members],
        lrs=torch.tensor([rates[member] for member in members], dtype=torch.float64),
        splits=torch.tensor([member % 2 for member in members]),
        seed=lambda stream, member, epoch: 1000 * members[member] + 10 * epoch + len(stream),
    )
    return Training(Stack(modules), data(shape, dtype=dtype), told, recipe(**changes))


def run(made: Training) -> Training:
    made.run(lambda epoch: None, lambda make: None)
    return made


def members_of(state: dict[str, torch.Tensor], row: int) -> dict[str, torch.Tensor]:
    return {name: value[row] for name, value in state.items()}


@pytest.mark.parametrize("rates", [RATES, [0.05] * 6], ids=["rates", "one rate"])
@pytest.mark.parametrize("redraw", [None, 2])
def test_a_stack_equals_its_members_alone_over_20_steps(rates, redraw):
    together = run(training(rates=rates, redraw_every=redraw, epochs=5))
    for member in range(6):
        alone = run(training([member], rates=rates, redraw_every=redraw, epochs=5))
        own = members_of(together.stack.state(), member)
        torch.testing.assert_close(own, alone.stack.state(), rtol=1e-9, atol=1e-11)
        assert [row[member] for row in together.curves.test] == [row[0] for row in alone.curves.test]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vgg16", "resnet34", "mobilenet", "mobilenet_v2"])
def test_stacked_image_networks_equal_each_alone(name):
    network = ScoringNetwork(name=name, width=2)
    picked = {"network": network, "shape": (3, 32, 32), "epochs": 2, "batch_size": 24, "rates": [0.005] * 6}
    together = run(training([0, 1], **picked))
    for row, member in enumerate([0, 1]):
        alone = run(training([member], **picked))
        own = members_of(together.stack.state(), row)
        torch.testing.assert_close(own, alone.stack.state(), rtol=1e-6, atol=1e-8)


def test_a_resumed_training_ends_as_an_undisturbed_one():
    saved = []

    def stop(make):
        saved.append(make())
        if len(saved) == 3:
            raise KilledError

    cut = training(redraw_every=2)
    with pytest.raises(KilledError):
        cut.run(lambda epoch: None, stop)
    again = training(redraw_every=2)
    again.resume(saved[-1])
    run(again)
    whole = run(training(redraw_every=2))
    assert again.curves == whole.curves
    for name, value in whole.stack.state().items():
        assert torch.equal(again.stack.state()[name], value)


def test_bce_by_its_derivative_equals_torch_with_sgd_and_cosine():
    """Against the plain loop that everybody writes."""
    made = training([1], network=MLP)
    module = build_scoring(MLP, (5,), 1).double()
    optimizer = torch.optim.SGD(module.parameters(), lr=RATES[1], momentum=0.9, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=4)
    inputs, labels = data().train_x[1], data().train_y[1]
    for epoch in range(4):
        generator = torch.Generator().manual_seed(1000 + 10 * epoch + len("order"))
        for batch in torch.randperm(48, generator=generator).split(12):
            optimizer.zero_grad()
            loss = nn.functional.binary_cross_entropy_with_logits(
                module(inputs[batch]), (labels[batch] + 1) / 2
            )
            loss.backward()
            optimizer.step()
        schedule.step()
    torch.testing.assert_close(run(made).stack.state(), dict(module.state_dict()), rtol=1e-9, atol=1e-11)


def test_only_the_exponential_loss_is_clipped():
    made = training([2, 1], rates=[0.0] * 6)
    big = [torch.full_like(weight, 3.0) for weight in made.stack.weights]
    made._clip(big, [0])
    norms = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in big]).norm(dim=0)
    assert float(norms[0]) == pytest.approx(10, rel=1e-5)
    assert float(norms[1]) > 20


def test_a_last_batch_of_one_sample_is_left_out():
    made = training([0], batch_size=47)
    sizes = [inputs.shape[1] for inputs, _, _ in made._batches()]
    assert sizes == [47]


def test_tests_leave_the_running_statistics_alone():
    made = training([0])
    before = made.stack.state()
    made.scores("train")
    after = made.stack.state()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_last_epoch_is_always_tested():
    assert run(training([0], epochs=5, test_every=2)).curves.epochs == [2, 4, 5]


def test_ensloss_draws_again_in_every_epoch_and_not_for_others():
    made = training([0, 1, 4])
    drawn = [normal for _, _, normal in made._batches()]
    assert {tuple(normal.shape) for normal in drawn} == {(2, 12)}
    first = drawn[0]
    made.epoch = 1
    second = next(iter(made._batches()))[2]
    assert not torch.equal(first, second)
