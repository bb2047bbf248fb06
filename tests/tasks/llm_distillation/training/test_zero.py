"""Training under ZeRO: stages, ranks and restarts that all give the same curve."""

import itertools
import json

import pytest
import torch
from torch import nn

from tasks.llm_distillation.training.zero import Optimization, Zero, ZeroModel, _part, engine_config

STEPS, BATCH, WORDS = 5, 8, 40


class Toy(nn.Module):
    """A tied embedding between two layers; its 5 x 3 weights do not split evenly."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(WORDS, 5)
        self.inner = nn.Linear(5, 3)
        self.outer = nn.Linear(3, 5)
        self.head = nn.Linear(5, WORDS, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, words, targets):
        hidden = self.outer(torch.tanh(self.inner(self.embed(words))))
        return nn.functional.cross_entropy(self.head(hidden).float(), targets, reduction="sum")


def batches():
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, WORDS, (STEPS, 2, BATCH), generator=generator)


def model(stage, rank=0, ranks=1, precision="fp32", **restored):
    settings = Optimization(0.1, (0.9, 0.99), 1.0, BATCH // ranks // 2, 2, precision)
    return ZeroModel(Toy(), Zero(stage=stage, whole_below=0), settings, "cpu", **restored)


def train(zero, steps, rank=0, ranks=1):
    """The curve of the whole batch's loss: `ranks` parts, in two passes each."""
    curve = []
    for words, targets in batches()[steps]:
        total = torch.zeros(())
        for part in torch.arange(BATCH)[rank::ranks].chunk(2):
            loss = zero(words[part], targets[part]) / BATCH
            zero.backward(loss)
            assert zero.step(lr=0.05)
            total += loss.detach()
        torch.distributed.all_reduce(total)
        curve.append(total.item())
    return curve


@pytest.fixture(scope="module")
def plain():
    """The same training in a few lines of torch."""
    toy, curve = Toy(), []
    matrices = [p for p in toy.parameters() if p.ndim > 1]
    vectors = [p for p in toy.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.05, betas=(0.9, 0.99))
    for words, targets in batches():
        loss = toy(words, targets) / BATCH
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(toy.parameters(), 1.0)
        optimizer.step()
        curve.append(loss.item())
    return curve, toy


@pytest.mark.parametrize("stage", range(4))
def test_every_stage_trains_as_plain_torch_does(stage, plain):
    curve, toy = plain
    zero = model(stage)
    assert train(zero, slice(None)) == pytest.approx(curve, rel=1e-5)
    weights = zero.weights()
    assert weights.keys() == dict(toy.named_parameters()).keys()
    for name, weight in toy.named_parameters():
        torch.testing.assert_close(weights[name], weight.detach(), rtol=1e-4, atol=1e-5)
    zero.close()


@pytest.mark.parametrize(("before", "after"), [(0, 3), (1, 0), (2, 1), (3, 2), (3, 3)])
def test_goes_on_at_another_stage(before, after, plain):
    first = model(before)
    train(first, slice(0, 2))
    saved = first.state()
    second = model(after, saved=saved, steps=2)
    assert train(second, slice(2, None)) == pytest.approx(plain[0][2:], rel=1e-5)


@pytest.mark.parametrize("stage", [0, pytest.param(1, marks=pytest.mark.slow), 2, 3])
def test_a_restored_model_has_the_saved_state_bit_for_bit(stage):
    first = model(stage, precision="bf16")
    train(first, slice(0, 2))
    saved = first.state()
    again = model(stage, precision="bf16", saved=saved, steps=2).state()
    assert saved.keys() == again.keys()
    assert all(torch.equal(saved[name], again[name]) for name in saved)
    assert any(weight.bfloat16().float().ne(weight).any() for weight in saved.values())


def test_bf16_stays_near_fp32(plain):
    for stage in (0, 2, 3):
        assert train(model(stage, precision="bf16"), slice(None)) == pytest.approx(plain[0], rel=0.02)


def test_gradients_that_are_not_finite_are_reported():
    for stage in (1, 2, 3):
        zero = model(stage)
        words, targets = batches()[0]
        for part in torch.arange(BATCH).chunk(2):
            zero.backward(zero(words[part], targets[part]) * float("inf"))
            finite = zero.step(lr=0.05)
        assert not finite


def test_the_whole_module_can_be_read():
    zero = model(3)
    with zero.whole() as module:
        assert torch.equal(module.embed.weight, Toy().embed.weight)


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_parts_make_up_the_whole(ranks):
    value = torch.arange(15.0).reshape(5, 3)
    parts = torch.cat([_part(value, rank, ranks) for rank in range(ranks)])
    assert torch.equal(parts[:15], value.flatten())
    assert not parts[15:].any()


def test_offloading_is_asked_for_where_there_is_a_device():
    zero = Zero(stage=3, offload_optimizer=True, offload_parameters=True)
    settings = Optimization(0.0, (0.9, 0.95), 0.0, 1, 1, "fp32")
    assert "offload_param" in engine_config(zero, settings, "cuda")["zero_optimization"]
    assert "offload_param" not in engine_config(zero, settings, "cpu")["zero_optimization"]


def rank_trains(rank, ranks, folder):
    """Every stage on two ranks; halfway, the state goes to the next stage."""
    store = torch.distributed.FileStore(f"{folder}/store", ranks)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=ranks)
    found = {}
    for stage in range(4):
        first = model(stage, rank, ranks)
        curve = train(first, slice(0, 2), rank, ranks)
        parts = [None] * ranks
        torch.distributed.all_gather_object(parts, first.state())
        saved = {name: value for part in parts for name, value in part.items()}
        assert sum(map(len, parts)) == len(saved)
        second = model((stage + 1) % 4, rank, ranks, saved=saved, steps=2)
        found[stage] = curve + train(second, slice(2, None), rank, ranks)
    if rank == 0:
        torch.save(saved, f"{folder}/saved")
        (folder / "curves").write_text(json.dumps(found))


@pytest.mark.slow
def test_two_ranks_give_the_curve_of_one_and_hand_it_their_state(tmp_path, plain):
    torch.multiprocessing.spawn(rank_trains, (2, tmp_path), nprocs=2)
    for curve in json.loads((tmp_path / "curves").read_text()).values():
        assert curve == pytest.approx(plain[0], rel=1e-5)
    saved = torch.load(tmp_path / "saved", weights_only=True)
    for stage in range(4):
        alone = model(stage, saved=saved, steps=2)
        assert train(alone, slice(2, None)) == pytest.approx(plain[0][2:], rel=1e-5)


def test_names_of_the_state():
    kinds = itertools.product(("weight", "exp_avg", "exp_avg_sq"), dict(Toy().named_parameters()))
    assert model(2).state().keys() == {f"{kind}/{name}" for kind, name in kinds}
