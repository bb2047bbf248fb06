"""EnsLoss as a module: its gradient, over several ranks, and for several classes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import distributed, multiprocessing, nn

from tasks.ensloss.draws import derivatives, draw_normal
from tasks.ensloss.loss import EnsLoss, OneVsRestEnsLoss


def batch(size: int = 32, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(size, generator=generator, dtype=torch.float64) * 2
    return scores.requires_grad_(), torch.randint(2, (size,), generator=generator)


@given(seed=st.integers(0, 1000), size=st.integers(1, 50), lam=st.floats(-1, 1))
def test_gradient_of_a_score_is_label_times_derivative_over_batch(seed, size, lam):
    scores, labels = batch(size, seed)
    EnsLoss(lam=lam, seed=seed)(scores, labels).backward()
    signs = labels * 2.0 - 1
    chance = draw_normal((size,), torch.Generator().manual_seed(seed))
    expected = signs * derivatives(signs * scores.detach(), chance, lam) / size
    torch.testing.assert_close(scores.grad, expected)


def test_labels_of_0_and_1_equal_those_of_minus_1_and_1():
    scores, labels = batch()
    assert EnsLoss()(scores, labels) == EnsLoss()(scores, labels * 2.0 - 1)


def test_every_batch_draws_anew_and_a_seed_repeats_all():
    scores, labels = batch()
    loss, again = EnsLoss(seed=3), EnsLoss(seed=3)
    first, second = loss(scores, labels), loss(scores, labels)
    assert first != second
    assert [again(scores, labels), again(scores, labels)] == [first, second]


def test_redraw_changes_lambda():
    loss = EnsLoss()
    loss.redraw()
    assert loss.lam != 0
    assert -1 <= loss.lam <= 1


@pytest.mark.parametrize(
    ("labels", "told"),
    [(torch.tensor([0, 2]), "labels hold 2.0"), (torch.tensor([[0], [1]]), "expected one score a sample")],
)
def test_wrong_labels_are_refused(labels, told):
    with pytest.raises(ValueError, match=told):
        EnsLoss()(torch.zeros(2), labels)


def test_training_with_it_separates_two_clouds():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(400) % 2
    inputs = torch.randn(400, 5, generator=generator) + (labels * 2.0 - 1)[:, None]
    model, loss = nn.Linear(5, 1), EnsLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        loss(model(inputs)[:, 0], labels).backward()
        optimizer.step()
    right = (model(inputs)[:, 0] > 0) == (labels > 0)
    assert float(right.double().mean()) > 0.95


def test_one_vs_rest_of_two_mirrored_logits_is_the_binary_loss():
    scores, labels = batch()
    logits = torch.stack([-scores, scores], 1)
    torch.testing.assert_close(OneVsRestEnsLoss(seed=5)(logits, labels), EnsLoss(seed=5)(scores, labels))


def test_one_vs_rest_orders_each_class_by_itself():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(20, 4, generator=generator, dtype=torch.float64).requires_grad_()
    classes = torch.randint(4, (20,), generator=generator)
    OneVsRestEnsLoss(seed=2)(logits, classes).backward()
    chance = draw_normal((20,), torch.Generator().manual_seed(2))
    for column in range(4):
        signs = (classes == column) * 2.0 - 1
        expected = signs * derivatives(signs * logits.detach()[:, column], chance) / 80
        torch.testing.assert_close(logits.grad[:, column], expected)


def rank_of_a_group(rank: int, store: str, cut: int, answers: str) -> None:
    torch.set_num_threads(1)
    rendezvous = distributed.FileStore(store, 2)
    distributed.init_process_group("gloo", store=rendezvous, rank=rank, world_size=2)
    scores, labels = batch(21)
    own = slice(0, cut) if rank == 0 else slice(cut, None)
    mine = scores.detach()[own].clone().requires_grad_()
    loss = EnsLoss(lam=0.3, seed=7, group=distributed.group.WORLD)
    for _ in range(2):
        value = loss(mine, labels[own])
    value.backward()
    torch.save({"value": value.detach(), "grad": mine.grad}, f"{answers}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("cut", [10, 4])
def test_two_ranks_give_what_one_device_gives(tmp_path, cut):
    store = str(tmp_path / "store")
    multiprocessing.spawn(rank_of_a_group, (store, cut, str(tmp_path)), nprocs=2)
    scores, labels = batch(21)
    alone = EnsLoss(lam=0.3, seed=7)
    alone(scores, labels)
    value = alone(scores, labels)
    value.backward()
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    torch.testing.assert_close((ranks[0]["value"] + ranks[1]["value"]) / 2, value.detach())
    together = torch.cat([rank["grad"] for rank in ranks]) / 2  # DDP takes the mean over the ranks
    torch.testing.assert_close(together, scores.grad)
