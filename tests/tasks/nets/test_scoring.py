from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap

from tasks.nets import ScoringNetwork, build_scoring, scoring_parameters
from tasks.nets.scoring import IMAGE_NETWORKS, WIDTHS

NAMES = tuple(WIDTHS)
SHAPE = (3, 16, 16)
CIFAR = (3, 32, 32)


class Config(BaseModel):
    networks: tuple[ScoringNetwork, ...] = ()


def small(name):
    return ScoringNetwork(name=name, width=16 if name == "tabular_mlp" else 4)


def random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def weights(module):
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def test_a_name_is_short_for_the_setting():
    config = Config.model_validate_json('{"networks": ["vgg16", {"name": "tabular_mlp", "depth": 5}]}')
    assert config.networks == (ScoringNetwork(name="vgg16"), ScoringNetwork(name="tabular_mlp", depth=5))


def test_the_tables_hold_every_name():
    assert set(get_args(ScoringNetwork.model_fields["name"].annotation)) == set(NAMES)
    assert set(NAMES) - {"tabular_mlp"} == set(IMAGE_NETWORKS)


@pytest.mark.parametrize(
    "wrong", [{"width": 0}, {"depth": 0}, {"width": 2.5}, {"name": "vgg"}, {"norm": "batch"}, {"w": 1}]
)
def test_refuses_wrong_settings(wrong):
    with pytest.raises(ValidationError):
        ScoringNetwork.model_validate(wrong)


def test_refuses_a_depth_that_is_fixed():
    with pytest.raises(ValidationError, match="network vgg16: its depth is fixed"):
        ScoringNetwork(name="vgg16", depth=3)


TAGS = {
    "mlp3": {},
    "mlp5": {"depth": 5, "width": 1024},
    "mlp1x64": {"depth": 1, "width": 64},
    "vgg16": {"name": "vgg16"},
    "vgg19": {"name": "vgg19", "width": 64},
    "resnet34x8": {"name": "resnet34", "width": 8},
    "mobilenet": {"name": "mobilenet", "width": 32},
    "mobilenet_v2x64": {"name": "mobilenet_v2", "width": 64},
}


@pytest.mark.parametrize(("tag", "given"), TAGS.items(), ids=TAGS)
def test_tags(tag, given):
    assert ScoringNetwork(**given).tag == tag


BODIES = {
    "vgg16": (14_714_688, 4_224, 512),
    "vgg19": (20_024_384, 5_504, 512),
    "resnet34": (21_284_672, 0, 512),
    "resnet50": (23_508_032, 0, 2048),
    "resnet101": (42_500_160, 0, 2048),
}
"""Weights before the linear layers as published with torchvision's models (of vgg without batch norm), channels
that are normalised beside them, and channels that leave."""


@pytest.mark.parametrize("name", BODIES)
def test_weights_of_the_known_architectures_before_the_authors_head(name):
    body, normalised, features = BODIES[name]
    head = features * 512 + 512 + 512 + 1
    assert scoring_parameters(ScoringNetwork(name=name), CIFAR) == body + 2 * normalised + head


@pytest.mark.parametrize(
    ("name", "known", "features"), [("mobilenet", 3_217_226, 1024), ("mobilenet_v2", 2_296_922, 1280)]
)
def test_weights_of_the_known_mobilenets_for_cifar(name, known, features):
    """Known with ten outputs."""
    assert scoring_parameters(ScoringNetwork(name=name), CIFAR) == known - 9 * (features + 1)


@pytest.mark.parametrize("depth", [1, 3, 5])
def test_the_multilayer_perceptron_is_that_of_the_authors(depth):
    module = build_scoring(ScoringNetwork(depth=depth), (30,), 0)
    kinds = [type(layer) for layer in module]
    assert kinds == [nn.Flatten, *[nn.Linear, nn.ReLU, nn.BatchNorm1d] * depth, nn.Linear, nn.Flatten]
    hidden = [layer.out_features for layer in module if isinstance(layer, nn.Linear)]
    assert hidden == [1024] * depth + [1]
    assert weights(module).numel() == scoring_parameters(ScoringNetwork(depth=depth), (30,))


def test_a_resnet_halves_in_its_stem_and_in_three_stages_and_does_not_pool():
    module = build_scoring(small("resnet34"), CIFAR, 0)
    sides = []
    for layer in module:
        layer.register_forward_hook(
            lambda _, __, maps: sides.append(maps.shape[-1]) if maps.dim() == 4 else None
        )
    module(random(2, *CIFAR))
    assert sides == [16] * 3 + [16] * 3 + [8] * 4 + [4] * 6 + [2] * 3 + [1]
    assert not any(isinstance(layer, nn.MaxPool2d) for layer in module.modules())


@pytest.mark.parametrize("name", NAMES)
def test_one_score_a_row(name):
    module = build_scoring(small(name), SHAPE, 0)
    assert module(random(5, *SHAPE)).shape == (5,)
    assert module.eval()(random(1, *SHAPE)).shape == (1,)
    assert all(parameter.dtype == torch.float32 for parameter in module.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_training_normalises_by_the_batch_and_testing_by_what_training_left(name):
    module = build_scoring(small(name), SHAPE, 0)
    images = random(8, *SHAPE)
    before = {key: value.clone() for key, value in module.state_dict().items() if "running" in key}
    trained = module(images)
    assert all(not torch.equal(module.state_dict()[key], value) for key, value in before.items())
    module.eval()
    assert not torch.allclose(module(images), trained)
    torch.testing.assert_close(module(images)[:3], module(images[:3]))


@pytest.mark.parametrize("name", NAMES)
def test_initialisation_is_determined_by_the_seed_and_leaves_global_random_numbers_alone(name):
    torch.manual_seed(11)
    state = torch.get_rng_state()
    first, again, other = (weights(build_scoring(small(name), SHAPE, seed)) for seed in (7, 7, 2**63 - 1))
    assert scoring_parameters(small(name), SHAPE) == first.numel()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("name", IMAGE_NETWORKS)
def test_a_table_fits_the_multilayer_perceptron_only(name):
    with pytest.raises(
        ValueError, match=f"network {name}: rows are 30 features of a table; .*use tabular_mlp"
    ):
        build_scoring(ScoringNetwork(name=name), (30,), 0)


@pytest.mark.parametrize("shape", [(), (3, 4), (0,), (3, 0, 4)])
def test_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match="network tabular_mlp: rows have the shape"):
        build_scoring(ScoringNetwork(), shape, 0)


def loss(model, parameters, buffers, rows, targets):
    return (functional_call(model, (parameters, buffers), (rows,)) * targets).sum()


WAYS = [("inside", name) for name in NAMES] + [
    ("outside", name) for name in ("tabular_mlp", "vgg16", "resnet34")
]


@pytest.mark.parametrize(("gradient", "name"), WAYS)
def test_a_stack_trains_as_each_alone(gradient, name):
    """Scores, gradients, running statistics, then the scores of the test mode; twice, so that they accumulate."""
    modules = [build_scoring(small(name), SHAPE, seed).double() for seed in range(3)]
    model = build_scoring(small(name), SHAPE, 9).double()
    untouched = {key: value.clone() for key, value in model.state_dict().items()}
    parameters, buffers = stack_module_state(modules)
    for turn in range(2):
        rows, targets = (
            random(3, 6, *SHAPE, seed=turn, dtype=torch.float64),
            random(3, 6, seed=2, dtype=torch.float64),
        )
        if gradient == "inside":
            slopes = vmap(grad(lambda *given: loss(model, *given)))(parameters, buffers, rows, targets)
        else:
            losses = vmap(lambda *given: loss(model, *given))(parameters, buffers, rows, targets)
            slopes = dict(
                zip(parameters, torch.autograd.grad(losses.sum(), list(parameters.values())), strict=True)
            )
        for index, module in enumerate(modules):
            alone = torch.autograd.grad(
                (module(rows[index]) * targets[index]).sum(), list(module.parameters())
            )
            for (key, _), slope in zip(module.named_parameters(), alone, strict=True):
                torch.testing.assert_close(slopes[key][index], slope, rtol=1e-10, atol=1e-10)
            for key, value in module.named_buffers():
                torch.testing.assert_close(buffers[key][index], value, rtol=1e-10, atol=1e-10)
    model.eval()
    scores = vmap(lambda *state: functional_call(model, state, (rows[0],)))(parameters, buffers)
    for module, score in zip(modules, scores, strict=True):
        torch.testing.assert_close(score, module.eval()(rows[0]), rtol=1e-10, atol=1e-10)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in untouched.items())


@given(
    st.sampled_from(sorted(IMAGE_NETWORKS)),
    st.tuples(st.sampled_from([1, 3]), st.integers(1, 40), st.integers(1, 40)),
)
@settings(max_examples=25)
def test_any_image_shape_gives_finite_scores(name, shape):
    module = build_scoring(ScoringNetwork(name=name, width=2), shape, 0)
    scores = module(random(4, *shape))
    assert scores.shape == (4,)
    assert torch.isfinite(scores).all()
