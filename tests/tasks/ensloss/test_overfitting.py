"""The claim of the paper at small scale, on its own synthetic data: networks that fit noisy labels to the last
sample do better under EnsLoss, at depth 5 as at depth 1."""

import pytest
import torch

from tasks.ensloss.stack import Stack
from tasks.ensloss.training import Data, Members, Recipe, Training
from tasks.nets.scoring import ScoringNetwork, build_scoring

FEATURES, SAMPLES, TRAIN, REPEATS = 200, 3000, 2100, 3


def noisy(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Normal inputs; labels by chance, with twice the standardised sum of their positive parts as log odds."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(SAMPLES, FEATURES, generator=generator)
    raw = inputs.relu().sum(1)
    odds = (2 * (raw - raw.mean()) / raw.std()).clamp(-5, 5).sigmoid()
    return inputs, (torch.rand(SAMPLES, generator=generator) < odds).float() * 2 - 1


def accuracies(loss: str, depth: int) -> tuple[float, float]:
    """On training and test samples, means over the repeats."""
    inputs, labels = (torch.stack(parts) for parts in zip(*map(noisy, range(REPEATS)), strict=True))
    data = Data(inputs[:, :TRAIN], labels[:, :TRAIN], inputs[:, TRAIN:], labels[:, TRAIN:])
    network = ScoringNetwork(name="tabular_mlp", width=64, depth=depth)
    stack = Stack([build_scoring(network, (FEATURES,), member) for member in range(REPEATS)])
    members = Members(
        losses=[loss] * REPEATS,
        lrs=torch.full((REPEATS,), 0.01, dtype=torch.float64),
        splits=torch.arange(REPEATS),
        seed=lambda stream, member, epoch: 1000 * member + epoch,
    )
    recipe = Recipe(
        epochs=60, batch_size=128, momentum=0.9, weight_decay=5e-6, test_every=60, lam=0.0, redraw_every=None
    )
    curves = Training(stack, data, members, recipe).run(lambda epoch: None, lambda make: None)
    return sum(curves.train[-1]) / REPEATS, sum(curves.test[-1]) / REPEATS


@pytest.mark.slow
@pytest.mark.parametrize("depth", [1, 5])
def test_ensloss_is_ahead_where_networks_fit_noise(depth):
    fitted, ours = accuracies("ensloss", depth)
    others = {loss: accuracies(loss, depth) for loss in ("bce", "hinge")}
    assert fitted > 0.99
    assert all(train > 0.99 for train, _ in others.values())
    assert all(ours > test + 0.005 for _, test in others.values()), (ours, others)
