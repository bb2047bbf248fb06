import pytest
import torch
from torch import nn
from torch.nn import functional

from tasks.nets.layers import Convolution, HalvingPool

SHAPES = [(2, 3, 8, 8), (2, 1, 6, 7), (1, 2, 5, 4), (1, 1, 2, 2), (2, 2, 4, 130)]


def normal(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_pool_is_that_of_torch(shape):
    maps = normal(*shape)
    torch.testing.assert_close(HalvingPool()(maps), functional.avg_pool2d(maps, 2))


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("padding", [1, 3])
def test_the_convolution_is_that_of_torch(channels, padding):
    torch.manual_seed(0)
    ours = Convolution(channels, 4, padding, normed=False).double()
    torch.manual_seed(0)
    theirs = nn.Conv2d(channels, 4, 3, padding=padding).double()
    assert all(torch.equal(*pair) for pair in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    images = normal(3, channels, 6, 5)
    maps, expected = ours(images), theirs(images)
    torch.testing.assert_close(maps, expected)
    direction = normal(*maps.shape)
    gradients = torch.autograd.grad(maps, list(ours.parameters()), direction)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, list(theirs.parameters()), direction))


@pytest.mark.parametrize("channels", [1, 2])
def test_a_norm_takes_out_the_bias(channels):
    layer, norm = Convolution(channels, 4, 1, normed=True).double(), nn.GroupNorm(4, 4).double()
    images = normal(3, channels, 6, 5)
    plain = functional.conv2d(images, layer.weight, layer.bias, padding=1)
    torch.testing.assert_close(norm(layer(images)), norm(plain))
    direction = normal(*plain.shape)
    found, expected = (
        torch.autograd.grad(norm(maps), [layer.weight, layer.bias], direction)
        for maps in (layer(images), plain)
    )
    torch.testing.assert_close(found[0], expected[0])
    torch.testing.assert_close(expected[1], torch.zeros_like(expected[1]), rtol=0, atol=1e-12)
    assert torch.equal(found[1], torch.zeros_like(found[1]))


@pytest.mark.parametrize(
    "layer", [HalvingPool(), *(Convolution(1, 2, 1, normed=normed).double() for normed in (True, False))]
)
def test_gradients_of_first_and_second_order(layer):
    maps = normal(2, 1, 4, 6).requires_grad_()
    assert torch.autograd.gradcheck(layer, maps)
    assert torch.autograd.gradgradcheck(layer, maps)


def test_the_pool_can_be_used_after_inference_mode():
    maps = normal(1, 1, 12, 22)
    with torch.inference_mode():
        HalvingPool()(maps)
    assert torch.autograd.grad(HalvingPool()(maps.requires_grad_()).sum(), maps)[0].eq(0.25).all()
