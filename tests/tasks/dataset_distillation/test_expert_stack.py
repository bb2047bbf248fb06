from itertools import islice

import pytest
import torch

from tasks.data import augment
from tasks.dataset_distillation.expert_stack import Chance, Epoch, augment_stack
from tasks.dataset_distillation.expert_training import Optimizer, expert_loss, train_epoch
from tasks.dataset_distillation.flat import FlatModel
from tasks.nets import Network, build
from tests.tasks.dataset_distillation.networks import normal

DSA = "color_crop_cutout_flip_scale_rotate"
CONVNET = Network(name="convnet", width=4, depth=2)
RESNET = Network(name="resnet18", width=2)
MLP = Network(name="mlp", width=8)
IMAGES, LABELS = normal(50, 1, 16, 16), torch.arange(50) % 3


def chance(member):
    return Chance.seeded(member, member + 100)


def drawn(members, images=IMAGES, batch_size=20, strategy=DSA):
    return Epoch.drawn([chance(member) for member in members], images, batch_size, strategy)


def paths(network, shape, members, steps=20):
    """Weights (S, P) in float64 after so many steps with every switch on."""
    images = normal(60, *shape)
    models = [FlatModel(build(network, shape, 3, member).double()) for member in members]
    weights = torch.stack([model.initial() for model in models])
    batches = drawn(members, images, batch_size=3).batches(images, torch.arange(60) % 3)

    def loss(weights, batch):
        return expert_loss(models[0].stacked, weights, batch, scale=0.7, penalty=0.5)

    losses = train_epoch(
        loss, weights, torch.zeros_like(weights), Optimizer(0.003, 0.9, 1e-3), islice(batches, steps)
    )
    return weights, losses


@pytest.mark.parametrize(
    ("network", "shape"),
    [(CONVNET, (1, 8, 8)), (CONVNET, (3, 8, 8)), (MLP, (1, 8, 8)), (RESNET, (1, 16, 16))],
)
def test_a_member_goes_the_way_of_the_expert_alone(network, shape):
    together, losses = paths(network, shape, range(3))
    for member in range(3):
        alone, loss = paths(network, shape, [member])
        torch.testing.assert_close(together[member], alone[0], rtol=0, atol=1e-9)
        torch.testing.assert_close(losses[member], loss[0], rtol=0, atol=1e-9)
    assert (together[0] - together[1]).abs().max() > 1e-2


def test_every_image_comes_once_for_every_member():
    found = [piece.shape[1] for piece in drawn(range(2)).order.split(20, dim=1)]
    assert found == [20, 20, 10]
    assert drawn(range(2)).order.sort(dim=1).values.tolist() == [list(range(50))] * 2
    assert drawn([0]).order.tolist() != drawn([1]).order.tolist()


def test_batches_are_those_drawn_one_by_one():
    own = chance(1)
    order = torch.randperm(50, generator=own.order)
    for batch, indices in zip(drawn(range(2)).batches(IMAGES, LABELS), order.split(20), strict=True):
        assert torch.equal(batch.images[1], IMAGES[indices])
        assert torch.equal(batch.labels[1], LABELS[indices])
        expected = augment(IMAGES[indices], DSA, own.augmentation)
        torch.testing.assert_close(batch.augmented[1], expected, rtol=0, atol=1e-6)


def test_without_a_strategy_images_stay_as_they_are():
    batch = next(drawn(range(2), strategy="").batches(IMAGES, LABELS))
    assert batch.augmented is batch.images


def test_every_member_is_augmented_in_its_own_way():
    images, parameters = normal(3, 4, 1, 16, 16), torch.zeros(3, 4, 3)
    parameters[:2, :, 0] = torch.tensor([0.0, 1.0])[:, None]
    flipped, plain, shifted = augment_stack(images, ["flip", "flip", "crop"], parameters)
    assert torch.equal(flipped, images[0].flip(3))
    assert torch.equal(plain, images[1])
    torch.testing.assert_close(shifted, images[2])
