import pytest
import torch

from tasks.nets import Network, build, parameter_count, resolve
from tasks.nets.resnet import strides


def test_size_is_that_of_the_literature():
    assert parameter_count(Network(name="resnet18"), (3, 32, 32), 10) == 11_173_962


def test_resolves_to_64_channels_with_instance_norm():
    resolved = resolve(Network(name="resnet18"), (3, 32, 32), 10)
    assert resolved == Network(name="resnet18", width=64, norm="instance")


@pytest.mark.parametrize(
    ("side", "expected"),
    [(4, [1, 1, 1, 1]), (8, [1, 2, 1, 1]), (16, [1, 2, 2, 1]), (28, [1, 2, 2, 2]), (64, [1, 2, 2, 2])],
)
def test_small_images_are_halved_less_often(side, expected):
    assert strides((1, side, side)) == expected


@pytest.mark.parametrize("side", [8, 28, 32])
def test_last_map_is_four_by_four(side):
    module = build(Network(name="resnet18", width=4), (1, side, side), 10, 0)
    assert module.blocks(module.stem(torch.zeros(2, 1, side, side))).shape == (2, 32, 4, 4)


def test_learns_from_tiny_digits():
    """The instance norm leaves a signal at 8x8: a few steps on four images fit them."""
    module = build(Network(name="resnet18", width=4), (1, 8, 8), 4, 0)
    images, labels = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(4)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    for _ in range(12):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(module(images), labels).backward()
        optimizer.step()
    assert module(images).argmax(1).equal(labels)


def test_norm_can_be_left_out():
    module = build(Network(name="resnet18", width=4, norm="none"), (3, 8, 8), 10, 0)
    assert not any(isinstance(layer, torch.nn.GroupNorm) for layer in module.modules())
    assert torch.isfinite(module(torch.randn(2, 3, 8, 8))).all()


def test_refuses_a_depth():
    with pytest.raises(ValueError, match="found depth 3, but its depth is fixed: leave `depth` out"):
        resolve(Network(name="resnet18", depth=3), (3, 32, 32), 10)


def test_refuses_images_that_are_too_small():
    with pytest.raises(ValueError, match="3x8 pixels are too small; expected 4x4 at least: use mlp"):
        resolve(Network(name="resnet18"), (3, 3, 8), 10)
