"""The loop: every sample once, the same ones for all methods, from any point on to the same bits, on any ranks."""

import math
import os

import pytest
import torch
from safetensors.torch import load, save
from torch import distributed, multiprocessing

from orchestrator.task import Progress
from tasks.model_distillation.methods import METHODS
from tasks.model_distillation.ranks import Ranks
from tasks.model_distillation.student_training import running_statistics
from tests.tasks.model_distillation.students import Plain, Rows, ran, training, weights

LONG = {"batch_size": 8, "epochs": 2}
"""With 480 rows: 60 steps an epoch, so that there is a point to go on from within it."""
EXACT = [
    "control", "kd", "dkd", "dist", "logit_mse", "ensloss", {"name": "dhkd", "dhkd": {"head": "linear"}},
]  # fmt: skip


class Killed(Exception):
    pass


def killed_at(number):
    """A `save` that keeps the number-th state as bytes and ends the training there."""
    kept = []

    def keep(make):
        made = make()
        kept.append((save(dict(made.tensors)), dict(made.facts)))
        if len(kept) == number:
            raise Killed

    return kept, keep


def test_every_epoch_holds_every_sample_once():
    rows = Rows(41)
    ran(training("control", rows=rows))
    for epoch in range(3):
        seen = [numbers for at, numbers in rows.asked if at == epoch]
        assert sorted(number for numbers in seen for number in numbers) == list(range(41))
        assert {len(numbers) for numbers in seen} <= {6, 7}


def test_all_methods_start_alike_and_see_the_same_samples_in_the_same_order():
    worlds = [Rows() for _ in METHODS]
    made = [training(name, rows=rows) for name, rows in zip(METHODS, worlds, strict=True)]
    first = made[0].student.head.weight.detach().clone()
    for one in made:
        assert torch.equal(one.student.head.weight, first)
        ran(one)
    assert all(rows.asked == worlds[0].asked for rows in worlds)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_learns(name):
    fitnet = {"name": "fitnet", "fitnet": 1.0}  # features of this teacher are noise
    made = ran(training(fitnet if name == "fitnet" else name, epochs=15))
    with torch.no_grad():
        chosen = made.student(made.samples.images).argmax(1)
    assert float((chosen == made.samples.classes).double().mean()) > 0.8


@pytest.mark.parametrize("name", ["control", "dhkd", "kdpp", "multi_sample_dropout", "ensloss"])
@pytest.mark.parametrize("number", [1, 2])
def test_killed_within_an_epoch_and_resumed_comes_to_the_same_bits(name, number):
    """Point 1 is after 50 of 60 steps, point 2 after the first epoch."""
    whole = ran(training(name, rows=Rows(480), student=Plain(normed=True), **LONG))
    kept, keep = killed_at(number)
    with pytest.raises(Killed):
        ran(training(name, rows=Rows(480), student=Plain(normed=True), **LONG), keep)
    tensors, facts = kept[-1]
    again = training(name, rows=Rows(480), student=Plain(normed=True), **LONG)
    again.resume(Progress(load(tensors), facts))
    assert (again.state.epoch, again.state.step) == [(0, 50), (1, 0)][number - 1]
    ran(again)
    assert torch.equal(weights(again), weights(whole))
    assert again.state.losses == whole.state.losses


def test_a_step_of_kd_goes_where_it_should():
    """By hand: with T the gradient by a logit is T (q - p) / N, so that the bias of the head moves by that."""
    rows = Rows(8)
    method = {"name": "kd", "ce": None, "kd": {"weight": 1.0, "temperature": 3.0}}
    made = training(
        method, rows=rows, epochs=1, optimisation={"lr": 0.1, "momentum": 0.0, "weight_decay": 0.0}
    )
    before = made.student.head.bias.detach().clone()
    q, p = ((logits / 3).softmax(1) for logits in (made.student(rows.images).detach(), rows.logits))
    ran(made)
    expected = before - 0.1 * 3 * (q - p).mean(0)
    torch.testing.assert_close(made.student.head.bias.detach(), expected)


def test_dhkd_trains_the_main_head_by_cross_entropy_alone():
    rows = Rows(8)
    alone, both = (
        training(name, rows=rows, epochs=1, optimisation={"momentum": 0.0, "weight_decay": 0.0})
        for name in ("control", {"name": "dhkd", "dhkd": {"alignment": False, "weight": 3.0}})
    )
    for made in (ran(alone), ran(both)):
        assert not torch.equal(made.student.body.weight, Plain().body.weight)
    torch.testing.assert_close(both.student.head.weight, alone.student.head.weight)
    assert not torch.allclose(both.student.body.weight, alone.student.body.weight)


def test_the_loss_of_an_epoch_is_its_mean():
    made = training("control", optimisation={"lr": 1e-30})
    with torch.no_grad():
        logits = made.student(made.samples.images)
    expected = torch.nn.functional.cross_entropy(logits, made.samples.classes)
    assert ran(made).state.losses == pytest.approx([float(expected)] * 3, rel=1e-5)


def test_a_loss_that_is_not_finite_ends_the_training_at_once():
    rows = Rows()
    rows.images[3] = math.inf
    with pytest.raises(
        ValueError, match=r"the loss is nan in epoch 1, step 5; lower optimisation.lr \(0.1\)"
    ):
        ran(training("kd", rows=rows))


def test_bfloat16_is_close():
    made = []
    for on in (False, True):
        one = training("kd", bf16=on)
        one.both.float()
        one.samples.images = one.samples.images.float()
        made.append(weights(ran(one)))
    assert not torch.equal(*made)
    torch.testing.assert_close(*made, atol=0.05, rtol=0.05)


def test_the_global_random_numbers_stay_as_they_were():
    before = torch.get_rng_state()
    ran(training("dhkd", epochs=1))
    assert torch.equal(torch.get_rng_state(), before)


def test_only_running_statistics_are_shared_and_no_other_buffer():
    student = Plain(normed=True)
    student.register_buffer("constant", torch.ones(1))
    mean, variance = running_statistics(student)
    assert mean is student.norm.running_mean
    assert variance is student.norm.running_var


def test_too_many_ranks_for_a_step_are_told_so():
    with pytest.raises(ValueError, match="a step has 4 samples for 3 ranks; expected 2 for each at least"):
        ran(training("control", batch_size=4, ranks=Ranks(0, 3)))


def one_of_two(rank, store, answers):
    """Trains all of them on two ranks: to the end, and up to the first save."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", store=distributed.FileStore(store, 2), rank=rank, world_size=2)
    for number, method in enumerate(EXACT):
        made = ran(training(method, rows=Rows(41), ranks=Ranks(rank, 2)))
        kept, keep = killed_at(1)
        with pytest.raises(Killed):
            ran(training(method, rows=Rows(41), ranks=Ranks(rank, 2)), keep)
        tensors, _ = kept[0]
        answer = {"weights": weights(made), "losses": torch.tensor(made.state.losses, dtype=torch.float64)}
        answer |= {f"saved.{name}": value for name, value in load(tensors).items()}
        torch.save(answer, f"{answers}/{number}.{rank}.pt")
    normed = ran(training("kd", student=Plain(normed=True), ranks=Ranks(rank, 2)))
    torch.save({"weights": weights(normed)}, f"{answers}/normed.{rank}.pt")
    distributed.destroy_process_group()
    # All is written. Once a rank aborted ("terminate called"), most likely as its interpreter was taken down.
    os._exit(0)


@pytest.mark.slow
def test_two_ranks_come_to_what_one_comes_to_and_one_goes_on_from_two(tmp_path):
    multiprocessing.spawn(one_of_two, (str(tmp_path / "store"), str(tmp_path)), nprocs=2)
    for number, method in enumerate(EXACT):
        alone = ran(training(method, rows=Rows(41)))
        ranks = [torch.load(tmp_path / f"{number}.{rank}.pt", weights_only=True) for rank in range(2)]
        for found in ranks:
            torch.testing.assert_close(
                found["weights"], weights(alone), atol=1e-10, rtol=1e-8, msg=f"{method}"
            )
            losses = torch.tensor(alone.state.losses, dtype=torch.float64)
            torch.testing.assert_close(found["losses"], losses, atol=1e-9, rtol=1e-8)
        saved = {
            name.removeprefix("saved."): value
            for found in ranks
            for name, value in found.items()
            if name.startswith("saved.")
        }
        again = training(method, rows=Rows(41))
        again.resume(Progress(saved, {"epoch": 1, "step": 0, "losses": alone.state.losses[:1]}))
        torch.testing.assert_close(weights(ran(again)), weights(alone), atol=1e-10, rtol=1e-8)
    normed = [torch.load(tmp_path / f"normed.{rank}.pt", weights_only=True) for rank in range(2)]
    assert torch.equal(normed[0]["weights"], normed[1]["weights"])
