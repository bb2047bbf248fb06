"""The cheap checks of EnsLoss's method, and its invariants for whatever margins and draws there are."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Generator
from torch.distributions import Normal

from tasks.ensloss.draws import FLOOR, derivatives, draw_lambda, draw_normal, inverse_box_cox

BATCH = 128
EPS = 1e-6


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return draw_normal(shape, Generator().manual_seed(seed))


margin_lists = st.integers(1, 40).flatmap(
    lambda size: st.tuples(
        arrays("float32", size, elements=st.floats(-50, 50, width=32)),
        arrays("float32", size, elements=st.floats(-6, 6, width=32)),
    )
)
lambdas = st.floats(-1, 1)


@given(drawn=margin_lists, lam=lambdas)
def test_derivatives_are_negative_and_never_decrease_with_the_margin(drawn, lam):
    margins, chance = map(torch.from_numpy, drawn)
    found = derivatives(margins, chance, lam)
    assert bool((found <= -FLOOR * 0.99).all())
    assert bool((found >= -1 - FLOOR - EPS).all())
    steps = found[margins.argsort(stable=True)].diff()
    assert bool((steps >= -EPS).all())


@given(drawn=margin_lists, lam=lambdas)
def test_derivatives_fade_at_least_as_fast_as_one_over_the_margin(drawn, lam):
    margins, chance = map(torch.from_numpy, drawn)
    found = derivatives(margins, chance, lam)
    beyond = margins > 1
    assert bool((found[beyond].abs() <= 1 / margins[beyond] + FLOOR + EPS).all())


@given(drawn=margin_lists)
def test_order_of_samples_does_not_matter(drawn):
    margins, chance = map(torch.from_numpy, drawn)
    margins = margins + torch.arange(len(margins)) * 1e-3  # no ties: tied samples may swap what they get
    if len(margins.unique()) < len(margins):
        return
    turned = derivatives(margins.flip(0), chance)
    torch.testing.assert_close(turned.flip(0), derivatives(margins, chance))


@pytest.mark.parametrize(
    ("lam", "expected"), [(-1, 0.808), (-0.5, 0.788), (0, 0.7616), (0.5, 0.725), (1, 0.685)]
)
def test_mean_size_of_a_draw(lam, expected):
    sizes = inverse_box_cox(normal(2_000_000), lam).clamp(max=1)
    assert float(sizes.mean()) == pytest.approx(expected, abs=1.5e-3)


def test_mean_and_share_at_lambda_0_in_closed_form():
    sizes = inverse_box_cox(normal(2_000_000), 0).clamp(max=1)
    exact = 0.5 + math.sqrt(math.e) * float(Normal(0, 1).cdf(torch.tensor(-1.0)))
    assert exact == pytest.approx(0.7616, abs=1e-4)
    assert float(sizes.mean()) == pytest.approx(exact, abs=1e-3)
    assert float((sizes == 1).double().mean()) == pytest.approx(0.5, abs=2e-3)


def test_mean_derivative_at_ranks_of_a_batch():
    trials = 20_000
    margins = torch.linspace(-1, 1, BATCH).expand(trials, BATCH)
    mean = derivatives(margins, normal(trials, BATCH)).mean(0)
    assert float(mean[BATCH // 2]) == pytest.approx(-0.954, abs=0.006)
    assert float(mean[3 * BATCH // 4]) == pytest.approx(-0.508, abs=0.012)
    assert float(mean[-1]) == pytest.approx(-0.081, abs=0.003)


def test_large_batches_reach_the_deterministic_limit():
    size = 200_000
    margins = torch.linspace(-1, 1, size)
    ranks = (torch.arange(size, dtype=torch.float64) + 0.5) / size
    limit = -Normal(0.0, 1.0).icdf(1 - ranks).exp().clamp(max=1)
    found = derivatives(margins, normal(size)).double()
    middle = slice(size // 100, -size // 100)
    assert float((found - limit)[middle].abs().max()) < 0.02


def test_a_batch_of_one_gets_its_own_draw():
    chance = torch.tensor([-1.0])
    assert float(derivatives(torch.tensor([0.3]), chance)) == pytest.approx(-math.exp(-1) - FLOOR)


def test_infinite_draws_of_negative_lambda_become_1():
    assert torch.isinf(inverse_box_cox(torch.tensor([3.0]), -1))
    assert float(derivatives(torch.tensor([0.0]), torch.tensor([3.0]), -1.0)) == pytest.approx(-1, abs=1e-5)


def test_bfloat16_margins_are_ordered_in_float32():
    margins = torch.linspace(-3, 3, BATCH).bfloat16()
    found = derivatives(margins, normal(BATCH))
    assert found.dtype == torch.bfloat16
    wide = derivatives(margins.float(), normal(BATCH))
    torch.testing.assert_close(found.float(), wide, atol=4e-3, rtol=4e-3)


def test_rows_are_batches_of_their_own():
    margins, chance = normal(3, BATCH, seed=1), normal(3, BATCH)
    together = derivatives(margins, chance)
    alone = torch.stack([derivatives(own, drawn) for own, drawn in zip(margins, chance, strict=True)])
    assert torch.equal(together, alone)


def test_a_redrawn_lambda_is_uniform():
    generator = Generator().manual_seed(0)
    drawn = torch.tensor([draw_lambda(generator) for _ in range(4000)])
    assert -1 <= float(drawn.min()) < -0.99
    assert 0.99 < float(drawn.max()) <= 1
    assert abs(float(drawn.mean())) < 0.04
