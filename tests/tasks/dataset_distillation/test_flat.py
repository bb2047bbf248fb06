import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tasks.dataset_distillation.flat import FlatModel, accuracy, predict
from tests.tasks.dataset_distillation.networks import normal, small_network


def test_runs_as_the_module_itself_does():
    model = small_network()
    images = normal(5, 1, 6, 6)
    assert torch.equal(model(model.initial(), images), model.module(images))
    assert model.size == sum(value.numel() for value in model.module.parameters())


@given(st.lists(st.integers(0, 3), max_size=2))
def test_flatten_undoes_unflatten_whatever_the_leading_axes_and_the_order_of_names(lead):
    model = small_network()
    vectors = normal(*lead, model.size)
    named = model.unflatten(vectors)
    assert all(value.shape == (*lead, *model.shapes[name]) for name, value in named.items())
    assert torch.equal(model.flatten(dict(sorted(named.items()))), vectors)


def test_flatten_takes_scalars():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(2.0))
            self.shift = nn.Parameter(torch.zeros(3))

        def forward(self, images):
            return images * self.scale + self.shift

    model = FlatModel(Scaled())
    assert model.flatten(model.unflatten(torch.arange(8.0).view(2, 4))).tolist() == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
    ]


def test_the_initial_weights_are_a_copy():
    model = small_network()
    weights = model.initial()
    weights.zero_()
    assert next(model.module.parameters()).abs().sum() > 0


def test_running_statistics_are_refused():
    with pytest.raises(ValueError, match="running_mean"):
        FlatModel(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)))


def test_prediction_does_not_depend_on_the_batch_size():
    model = small_network()
    images = normal(7, 1, 6, 6)
    whole = model(model.initial(), images)
    assert torch.allclose(predict(model, model.initial(), images, batch_size=3), whole, atol=1e-12)
    assert accuracy(model, model.initial(), images, whole.argmax(dim=1)) == 1
    assert accuracy(model, model.initial(), images, (whole.argmax(dim=1) + 1) % 3) == 0


@pytest.mark.parametrize("members", [1, 3])
def test_a_stack_runs_as_its_members_do(members):
    model = small_network()
    weights, images = normal(members, model.size), normal(members, 5, 1, 6, 6, seed=1)
    alone = torch.stack([model(*pair) for pair in zip(weights, images, strict=True)])
    torch.testing.assert_close(model.stacked(weights, images), alone)
