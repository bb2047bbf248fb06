import pytest
import torch

from tasks.nets import Network, build, parameter_count, resolve
from tasks.nets.convnet import largest_depth


@pytest.mark.parametrize(
    ("shape", "classes", "count"),
    [
        ((3, 32, 32), 10, 320_010),
        ((3, 32, 32), 100, 504_420),
        ((3, 64, 64), 200, 857_160),
        ((3, 128, 128), 10, 615_690),
        ((1, 28, 28), 10, 317_706),
    ],
)
def test_sizes_are_those_of_the_literature(shape, classes, count):
    assert parameter_count(Network(), shape, classes) == count


@pytest.mark.parametrize(
    ("shape", "depth"),
    [
        ((3, 2, 2), 1),
        ((1, 8, 8), 1),
        ((3, 16, 16), 2),
        ((1, 28, 28), 3),
        ((3, 28, 28), 3),
        ((3, 32, 32), 3),
        ((3, 64, 64), 4),
        ((3, 128, 128), 5),
        ((3, 128, 16), 2),
    ],
)
def test_default_depth_follows_the_image(shape, depth):
    assert resolve(Network(), shape, 10) == Network(name="convnet", width=128, depth=depth, norm="instance")


def test_parameters_come_in_the_order_of_published_buffers():
    module = build(Network(depth=2, width=8), (3, 32, 32), 10, 0)
    shapes = [tuple(parameter.shape) for parameter in module.parameters()]
    block = [(8, 8, 3, 3), (8,), (8,), (8,)]
    assert shapes == [(8, 3, 3, 3), *block[1:], *block, (10, 8 * 8 * 8), (10,)]


def test_mnist_images_make_a_map_of_32():
    module = build(Network(width=4), (1, 28, 28), 10, 0)
    assert module.features[0](torch.zeros(1, 1, 28, 28)).shape == (1, 4, 32, 32)
    assert module(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_norm_acts_on_each_map_of_each_image():
    module = build(Network(width=4, depth=1), (3, 8, 8), 10, 0)
    maps = module.features[1](module.features[0](torch.randn(2, 3, 8, 8)))
    torch.testing.assert_close(maps.mean((2, 3)), torch.zeros(2, 4), atol=1e-5, rtol=0)
    torch.testing.assert_close(maps.std((2, 3), correction=0), torch.ones(2, 4), atol=1e-3, rtol=0)


def test_norm_can_be_left_out():
    bare = Network(width=4, depth=1, norm="none")
    assert (
        parameter_count(Network(width=4, depth=1), (3, 8, 8), 10) - parameter_count(bare, (3, 8, 8), 10) == 8
    )


@pytest.mark.parametrize(
    ("shape", "largest"), [((1, 28, 28), 5), ((3, 28, 28), 4), ((3, 32, 32), 5), ((1, 8, 8), 3)]
)
def test_refuses_a_depth_that_leaves_nothing_of_the_image(shape, largest):
    assert largest_depth(shape) == largest
    assert build(Network(width=2, depth=largest), shape, 10, 0)(torch.zeros(1, *shape)).shape == (1, 10)
    with pytest.raises(
        ValueError, match=f"depth {largest + 1} is too large .* expected at most {largest}: set"
    ):
        resolve(Network(depth=largest + 1), shape, 10)


def test_refuses_an_image_of_one_pixel():
    with pytest.raises(ValueError, match="1x4 pixels are too small; expected 2x2 at least: use mlp"):
        resolve(Network(), (1, 1, 4), 10)
