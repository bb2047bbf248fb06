import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tasks.ensloss.margin_losses import DERIVATIVES, GAMMA

LOSSES = {
    "bce": lambda s: torch.nn.functional.softplus(-s),
    "hinge": lambda s: (1 - s).clamp(min=0),
    "exponential": lambda s: (-s).exp(),
    "focal": lambda s: (1 - s.sigmoid()) ** GAMMA * torch.nn.functional.softplus(-s),
}


@pytest.mark.parametrize("name", DERIVATIVES)
@given(margin=st.floats(-20, 20).filter(lambda s: abs(s - 1) > 1e-6))
def test_derivative_is_that_of_the_loss(name, margin):
    margins = torch.tensor([margin], dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(LOSSES[name](margins).sum(), margins)
    torch.testing.assert_close(DERIVATIVES[name](margins.detach()), expected)


def test_every_loss_has_a_derivative():
    assert set(LOSSES) == set(DERIVATIVES)


@pytest.mark.parametrize("name", DERIVATIVES)
@pytest.mark.parametrize("margin", [-80.0, 80.0])
def test_far_margins_stay_finite(name, margin):
    assert bool(DERIVATIVES[name](torch.tensor([margin])).isfinite().all())
