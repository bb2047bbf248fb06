import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tasks.model_distillation.optimisation import (
    Optimisation,
    learning_rate,
    make_optimizer,
    optimizer_tensors,
    restore_optimizer,
    set_rate,
)


def test_steps_fall_at_the_milestones_of_the_usual_recipe():
    steps = Optimisation(lr=0.05, schedule="steps")
    rates = {epoch: learning_rate(steps, epoch, 240) for epoch in (0, 149, 150, 180, 209.9, 210)}
    assert list(rates.values()) == pytest.approx([0.05, 0.05, 0.005, 0.0005, 0.0005, 0.00005])


def test_a_cosine_falls_to_nothing():
    cosine = Optimisation(lr=2.0)
    assert [learning_rate(cosine, epoch, 8) for epoch in (0, 4, 8)] == pytest.approx([2.0, 1.0, 0.0])
    assert learning_rate(cosine, 2, 8) == pytest.approx(1 + math.cos(math.pi / 4))


def test_a_warm_up_rises_from_nothing():
    rising = Optimisation(lr=1.0, schedule="constant", warmup=4)
    assert [learning_rate(rising, epoch, 10) for epoch in (0, 1, 4, 9)] == [0, 0.25, 1, 1]


@given(st.sampled_from(["cosine", "steps", "constant"]), st.floats(0, 50), st.floats(0, 1))
def test_the_rate_never_rises_after_the_warm_up(schedule, epoch, more):
    optimisation = Optimisation(schedule=schedule)
    assert learning_rate(optimisation, epoch + more, 50) <= learning_rate(optimisation, epoch, 50) + 1e-12


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_an_optimizer_goes_on_where_it_was(optimizer):
    optimisation = Optimisation(optimizer=optimizer, lr=0.01)

    def steps(module, made, number, first=0):
        for step in range(first, first + number):
            set_rate(made, learning_rate(optimisation, step, 6))
            made.zero_grad()
            module(torch.full((2, 3), 1.0 + step)).square().sum().backward()
            made.step()

    def fresh():
        torch.manual_seed(0)
        return nn.Linear(3, 2)

    whole, begun, later = fresh(), fresh(), fresh()
    steps(whole, make_optimizer(optimisation, whole.parameters()), 6)
    made = make_optimizer(optimisation, begun.parameters())
    steps(begun, made, 3)
    later.load_state_dict(begun.state_dict())
    again = make_optimizer(optimisation, later.parameters())
    restore_optimizer(again, optimizer_tensors(made))
    steps(later, again, 3, first=3)
    assert torch.equal(later.weight, whole.weight)


@pytest.mark.parametrize("milestones", [(0.5, 0.5), (0.7, 0.6), (0.0,), (1.0,)])
def test_milestones_rise_between_beginning_and_end(milestones):
    with pytest.raises(ValueError, match="rising fractions between 0 and 1"):
        Optimisation(milestones=milestones)


def test_plain_momentum_on_demand():
    """With a constant gradient of 1 the first step of momentum m is 1, of Nesterov's 1 + m."""
    moved = {}
    for nesterov in (True, False):
        weight = torch.nn.Parameter(torch.zeros(1))
        settings = Optimisation(lr=1.0, momentum=0.5, weight_decay=0.0, nesterov=nesterov)
        optimizer = make_optimizer(settings, [weight])
        weight.grad = torch.ones(1)
        optimizer.step()
        moved[nesterov] = -weight.item()
    assert moved == {True: 1.5, False: 1.0}
