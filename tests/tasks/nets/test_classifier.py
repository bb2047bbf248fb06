from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from tasks.nets import Classifier, build_classifier, classifier_parameters, feature_size

NAMES = ("cifar_resnet8", "cifar_resnet20", "resnet18", "vgg8", "convnet", "mlp")
SHAPES = ((3, 32, 32), (1, 28, 28), (1, 8, 8))
CHECKPOINTS = Path("~/.cache/limbeck/data/cifar_resnets").expanduser()


@settings(deadline=None, max_examples=20)
@given(st.sampled_from(NAMES), st.sampled_from(SHAPES), st.integers(2, 5), st.integers(1, 3))
def test_traces_what_the_head_is_given(name, shape, classes, number):
    classifier = Classifier(name=name, width=4)
    module = build_classifier(classifier, shape, classes, 0).eval()
    images = torch.rand(number, *shape)
    with torch.no_grad():
        trace = module.trace(images)
        assert torch.equal(module(images), trace.logits)
        assert torch.equal(module.head(trace.features), trace.logits)
    assert trace.logits.shape == (number, classes)
    assert trace.features.shape == (number, feature_size(classifier, shape, classes))
    assert len(trace.maps) >= 1
    assert all(maps.ndim == 4 and len(maps) == number for maps in trace.maps)
    parameters = sum(parameter.numel() for parameter in module.parameters())
    assert classifier_parameters(classifier, shape, classes) == parameters


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("cifar_resnet20", 269_722), ("cifar_resnet56", 853_018), ("cifar_resnet110", 1_727_962)],
)
def test_has_the_size_of_the_original(name, parameters):
    """He et al. give 0.27, 0.85 and 1.7 million."""
    assert classifier_parameters(Classifier(name=name), (3, 32, 32), 10) == parameters


def test_the_shortcut_adds_channels_of_zeros_on_both_sides():
    block = build_classifier(Classifier(name="cifar_resnet8"), (3, 8, 8), 2, 0).layer2[0]
    maps = torch.rand(1, 16, 4, 4)
    shortcut = block._shortcut(maps)
    assert shortcut.shape == (1, 32, 2, 2)
    assert torch.equal(shortcut[:, 8:24], maps[:, :, ::2, ::2])
    assert not shortcut[:, :8].any()
    assert not shortcut[:, 24:].any()


@pytest.mark.parametrize("depth", [20, 32, 56])
def test_loads_the_public_checkpoints_strictly(depth):
    file = CHECKPOINTS / f"resnet{depth}_cifar10.safetensors"
    if not file.is_file():
        pytest.skip(f"{file.name} is not here")
    module = build_classifier(Classifier(name=f"cifar_resnet{depth}"), (3, 32, 32), 10, 0)
    found = module.load_state_dict(load_file(file), strict=False)
    assert not found.unexpected_keys
    assert all(name.endswith("num_batches_tracked") for name in found.missing_keys)


@pytest.mark.parametrize("name", NAMES)
def test_is_initialised_by_its_seed_alone(name):
    before = torch.get_rng_state()
    one, same, other = (
        build_classifier(Classifier(name=name, width=4), (1, 8, 8), 3, seed).state_dict()
        for seed in (0, 0, 1)
    )
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)
    assert torch.equal(torch.get_rng_state(), before)


def test_vgg_keeps_maps_of_four_pixels():
    module = build_classifier(Classifier(name="vgg8", width=2), (3, 32, 32), 3, 0)
    sides = [maps.shape[-1] for maps in module.eval().trace(torch.rand(1, 3, 32, 32)).maps]
    assert sides == [32, 16, 8, 4, 4]


@pytest.mark.parametrize(
    ("classifier", "shape", "classes", "message"),
    [
        ({"name": "resnet18", "depth": 3}, (3, 32, 32), 2, "its depth is fixed: leave `depth` out"),
        ({"name": "cifar_resnet20"}, (3, 32, 32), 1, "found 1 classes; expected two or more"),
        ({"name": "cifar_resnet20"}, (3, 3, 32), 2, "images of 3x32 pixels are too small; expected 4x4"),
        ({"name": "convnet", "depth": 4}, (1, 8, 8), 2, "expected 16x16 at least: lower `depth`"),
        ({"name": "cifar_resnet21"}, (3, 32, 32), 2, "cifar_resnet20"),
    ],
)
def test_refuses_what_does_not_fit(classifier, shape, classes, message):
    with pytest.raises(ValueError, match=message):
        build_classifier(Classifier(**classifier), shape, classes, 0)


def test_a_tag_tells_any_two_apart():
    given_ = [
        "mlp",
        {"name": "mlp", "depth": 2},
        {"name": "mlp", "width": 2},
        {"name": "convnet", "depth": 2},
    ]
    assert len({Classifier.model_validate(one).tag for one in given_}) == len(given_)
