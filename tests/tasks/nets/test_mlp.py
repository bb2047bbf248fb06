import pytest
import torch

from tasks.nets import Network, build, parameter_count, resolve


def test_has_two_hidden_layers_of_128_by_default():
    assert resolve(Network(name="mlp"), (3, 32, 32), 10) == Network(
        name="mlp", width=128, depth=3, norm="none"
    )
    assert parameter_count(Network(name="mlp"), (3, 32, 32), 10) == 411_146


def test_one_layer_is_linear():
    module = build(Network(name="mlp", depth=1), (1, 8, 8), 10, 0)
    images = torch.randn(2, 1, 8, 8)
    assert parameter_count(Network(name="mlp", depth=1), (1, 8, 8), 10) == 650
    torch.testing.assert_close(module(images * 2) - module(images), module(images) - module(images * 0))


def test_refuses_instance_norm():
    with pytest.raises(ValueError, match="no maps to normalise: leave `norm` out"):
        resolve(Network(name="mlp", norm="instance"), (1, 8, 8), 10)
