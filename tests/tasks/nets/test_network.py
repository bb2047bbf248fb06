import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from tasks.nets import ARCHITECTURES, Network, build, parameter_count, resolve

NAMES = tuple(ARCHITECTURES)
SHAPE = (3, 16, 16)


class Config(BaseModel):
    network: Network = Network()


def weights(module):
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def small(name):
    return Network(name=name, width=4)


def test_a_name_is_short_for_the_setting():
    assert Config.model_validate({"network": "mlp"}).network == Network(name="mlp")
    assert Config().network.name == "convnet"


def test_the_table_holds_every_name():
    assert Network.model_fields["name"].annotation.__args__ == NAMES


@pytest.mark.parametrize(
    "settings", [{"width": 0}, {"depth": 0}, {"width": 2.5}, {"name": "vgg"}, {"norm": "batch"}, {"w": 1}]
)
def test_refuses_wrong_settings(settings):
    with pytest.raises(ValidationError):
        Network.model_validate(settings)


@pytest.mark.parametrize("name", NAMES)
def test_resolving_is_idempotent_and_survives_a_dump(name):
    resolved = resolve(Network(name=name), SHAPE, 10)
    assert resolve(resolved, SHAPE, 10) == resolved
    assert Network.model_validate(resolved.model_dump(mode="json")) == resolved
    assert resolved.width is not None
    assert resolved.norm is not None


@pytest.mark.parametrize("name", NAMES)
def test_refuses_a_single_class(name):
    with pytest.raises(ValueError, match="found 1 classes; expected two or more"):
        resolve(Network(name=name), SHAPE, 1)


@pytest.mark.parametrize("name", NAMES)
def test_initialisation_is_determined_by_the_seed(name):
    first, again, other = (weights(build(small(name), SHAPE, 10, seed)) for seed in (7, 7, 2**63 - 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("name", NAMES)
def test_global_random_numbers_are_left_alone(name):
    torch.manual_seed(11)
    before = torch.get_rng_state()
    build(small(name), SHAPE, 10, 5)
    parameter_count(small(name), SHAPE, 10)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", NAMES)
def test_initialisation_does_not_depend_on_global_random_numbers(name):
    torch.manual_seed(1)
    first = weights(build(small(name), SHAPE, 10, 5))
    torch.manual_seed(2)
    assert torch.equal(weights(build(small(name), SHAPE, 10, 5)), first)


@pytest.mark.parametrize("name", NAMES)
def test_counted_without_building_as_built(name):
    module = build(small(name), SHAPE, 10, 0)
    assert parameter_count(small(name), SHAPE, 10) == weights(module).numel()
    assert not list(module.buffers())


@pytest.mark.parametrize("name", NAMES)
def test_runs_functionally_on_stacked_weights(name):
    modules = [build(small(name), SHAPE, 10, seed) for seed in range(3)]
    stacked, _ = torch.func.stack_module_state(modules)
    images = torch.randn(5, *SHAPE, generator=torch.Generator().manual_seed(0))
    outputs = torch.func.vmap(lambda state: torch.func.functional_call(modules[0], state, (images,)))(stacked)
    for module, output in zip(modules, outputs, strict=True):
        torch.testing.assert_close(output, module(images), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_second_derivative_is_that_of_finite_differences(name):
    """d/dx <d loss/d weights, v>: what trajectory matching differentiates."""
    module = build(small(name), (1, 8, 8), 3, 0).double()
    parameters = tuple(module.parameters())
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(4, 1, 8, 8, generator=generator, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 0])
    directions = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in parameters]

    def slope(images):
        loss = torch.nn.functional.cross_entropy(module(images), labels)
        gradients = torch.autograd.grad(loss, parameters, create_graph=True)
        return sum((gradient * v).sum() for gradient, v in zip(gradients, directions, strict=True))

    variable = images.clone().requires_grad_()
    (exact,) = torch.autograd.grad(slope(variable), variable)
    towards = torch.randn(images.shape, generator=generator, dtype=torch.float64)
    step = 1e-6
    numeric = (slope(images + step * towards) - slope(images - step * towards)) / (2 * step)
    torch.testing.assert_close((exact * towards).sum(), numeric.detach(), rtol=1e-5, atol=1e-6)


@given(
    st.sampled_from(NAMES),
    st.tuples(st.sampled_from([1, 3]), st.integers(4, 40), st.integers(4, 40)),
    st.integers(2, 12),
)
@settings(max_examples=25, deadline=None)
def test_any_image_shape_gives_finite_logits(name, shape, classes):
    module = build(Network(name=name, width=2), shape, classes, 0)
    logits = module(torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)))
    assert logits.shape == (2, classes)
    assert torch.isfinite(logits).all()
