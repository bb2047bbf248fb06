import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.llm_distillation.losses import DIVERGENCES, Divergence, divergence
from tasks.llm_distillation.losses.divergences import pair_of, to_logits

WIDE = torch.float64
SETTINGS = [Divergence(name=name) for name in DIVERGENCES] + [
    Divergence(name="jsd", beta=0.0),
    Divergence(name="jsd", beta=0.1, normalised=True),
    Divergence(name="jsd", beta=1.0, normalised=True),
    Divergence(name="skew_kl", lam=0.4),
    Divergence(name="skew_reverse_kl", lam=0.0),
    Divergence(name="symmetric_kl", lam=0.3),
    Divergence(name="akl", alpha=0.9),
]
FORWARD, REVERSE = Divergence(name="forward_kl"), Divergence(name="reverse_kl")
every = pytest.mark.parametrize("term", SETTINGS, ids=str)
seeds = st.integers(0, 2**32)


def logits(seed, rows=4, classes=9, scale=2.0):
    return torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed), dtype=WIDE) * scale


def both(seed, **shape):
    return logits(seed, **shape).log_softmax(-1), logits(seed + 1, **shape).log_softmax(-1)


def of(name, log_p, log_q, **settings):
    return divergence(Divergence(name=name, **settings), log_p, log_q)


@every
@settings(max_examples=8)
@given(seed=seeds)
def test_is_zero_between_equals_and_never_negative(term, seed):
    log_p, log_q = both(seed)
    assert divergence(term, log_p, log_p).abs().max() < 1e-12
    assert divergence(term, log_p, log_q).min() > 0


@every
@settings(max_examples=8)
@given(seed=seeds, temperature=st.sampled_from([0.5, 1.0, 3.0]))
def test_closed_form_is_what_autograd_finds(term, seed, temperature):
    scores = logits(seed).requires_grad_()
    log_p, log_q = logits(seed + 1).log_softmax(-1), (scores / temperature).log_softmax(-1)
    value, slope = DIVERGENCES[term.name](pair_of(log_p, log_q.detach()), term, 1.0)
    again = divergence(term, log_p, log_q)
    (expected,) = torch.autograd.grad(again.sum(), scores)
    torch.testing.assert_close(value, again.detach(), rtol=0, atol=0)
    found = to_logits(slope, log_q.detach().exp(), temperature)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("term", [term for term in SETTINGS if term.name != "akl"], ids=str)
def test_gradient_is_that_of_finite_differences(term):
    log_p, scores = both(3)[0], logits(4).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: divergence(term, log_p, z.log_softmax(-1)), scores)


def test_values_by_hand():
    p, q = torch.tensor([0.5, 0.5, 0.0], dtype=WIDE), torch.tensor([0.25, 0.5, 0.25], dtype=WIDE)
    log_p, log_q = p.log(), q.log()
    ln2 = math.log(2)
    assert float(of("forward_kl", log_p, log_q)) == pytest.approx(0.5 * ln2)
    assert float(of("tvd", log_p, log_q)) == pytest.approx(0.25)
    assert float(of("uld", log_p, log_q)) == pytest.approx(
        0.25 + 0.25 - 0.0
    )  # sorted: .5 .5 0 and .5 .25 .25
    m = math.log(0.375)
    half = 0.5 * (0.5 * (math.log(0.5) - m)) + 0.5 * (0.25 * (math.log(0.25) - m) + 0.25 * ln2)
    assert float(of("jsd", log_p, log_q)) == pytest.approx(half)
    assert float(of("reverse_kl", log_q, log_p.clamp_min(-100))) == pytest.approx(0.5 * ln2)
    skewed = 0.5 * math.log(0.5 / 0.375)
    assert float(of("skew_kl", log_p, log_q, lam=0.5)) == pytest.approx(skewed)
    mixed = 0.25 * math.log(0.25 / (0.8 * 0.5 + 0.2 * 0.25)) + 0.25 * math.log(1 / 0.2)
    assert float(of("skew_reverse_kl", log_p, log_q, lam=0.2)) == pytest.approx(mixed)


@settings(max_examples=8)
@given(seed=seeds)
def test_jsd_is_symmetric_at_half_and_at_most_log_2(seed):
    log_p, log_q = both(seed, scale=30.0)
    there, back = of("jsd", log_p, log_q), of("jsd", log_q, log_p)
    torch.testing.assert_close(there, back)
    assert there.max() <= math.log(2) + 1e-12


def test_jsd_mixes_probabilities_and_not_their_logarithms():
    """trl 2202 averaged log-probabilities."""
    log_p, log_q = both(5, scale=4.0)
    mixture = ((log_p.exp() + log_q.exp()) / 2).log()
    expected = 0.5 * of("forward_kl", log_p, mixture) + 0.5 * of("forward_kl", log_q, mixture)
    torch.testing.assert_close(of("jsd", log_p, log_q), expected)
    wrong = (log_p + log_q) / 2
    other = 0.5 * of("forward_kl", log_p, wrong) + 0.5 * of("forward_kl", log_q, wrong)
    assert (expected - other).abs().min() > 0.01


def test_beta_is_the_teachers_share():
    """trl 3043 and a version of Liger gave it to the student."""
    log_p, log_q = both(6, scale=4.0)
    mixture = (0.9 * log_p.exp() + 0.1 * log_q.exp()).log()
    expected = 0.9 * of("forward_kl", log_p, mixture) + 0.1 * of("forward_kl", log_q, mixture)
    torch.testing.assert_close(of("jsd", log_p, log_q, beta=0.9), expected)
    assert (of("jsd", log_p, log_q, beta=0.1) - expected).abs().min() > 1e-3


@settings(max_examples=8)
@given(seed=seeds)
def test_jsd_ends_at_forward_and_reverse_kl_and_the_normalised_form_goes_there(seed):
    log_p, log_q = both(seed, scale=1.0)
    forward, reverse = divergence(FORWARD, log_p, log_q), divergence(REVERSE, log_p, log_q)
    for normalised in (False, True):
        assert of("jsd", log_p, log_q, beta=0.0, normalised=normalised).equal(forward)
        assert of("jsd", log_p, log_q, beta=1.0, normalised=normalised).equal(reverse)
    near = of("jsd", log_p, log_q, beta=1e-5, normalised=True)
    torch.testing.assert_close(near, forward, rtol=1e-2, atol=1e-6)
    near = of("jsd", log_p, log_q, beta=1 - 1e-5, normalised=True)
    torch.testing.assert_close(near, reverse, rtol=1e-2, atol=1e-6)
    assert of("jsd", log_p, log_q, beta=1e-5).max() < 1e-3


@settings(max_examples=8)
@given(seed=seeds)
def test_skew_divergences_at_both_ends_of_lam(seed):
    log_p, log_q = both(seed)
    for name, plain in (("skew_kl", FORWARD), ("skew_reverse_kl", REVERSE)):
        torch.testing.assert_close(of(name, log_p, log_q, lam=0.0), divergence(plain, log_p, log_q))
        assert of(name, log_p, log_q, lam=1.0).abs().max() < 1e-12


@pytest.mark.parametrize("name", ["jsd", "skew_kl", "skew_reverse_kl", "tvd", "uld"])
@pytest.mark.parametrize("teacher_lacks", [True, False])
def test_finite_where_one_has_no_mass(name, teacher_lacks):
    full, lacking = both(7)
    lacking = lacking.index_fill(-1, torch.tensor([2, 3]), -torch.inf).log_softmax(-1)
    log_p, log_q = (lacking, full) if teacher_lacks else (full, lacking)
    term = Divergence(name=name)
    value, slope = DIVERGENCES[name](pair_of(log_p, log_q), term, 1.0)
    assert value.isfinite().all()
    assert slope.isfinite().all()
    assert value.max() < 10


@pytest.mark.parametrize("name", list(DIVERGENCES))
def test_float32_is_finite_where_both_underflow(name):
    scores = torch.tensor([[0.0, -200.0, -300.0, 1.0]])
    value, slope = DIVERGENCES[name](
        pair_of(scores.log_softmax(-1), scores.flip(-1).log_softmax(-1)), Divergence(name=name), 1.0
    )
    assert value.isfinite().all()
    assert slope.isfinite().all()


def test_symmetric_kl_has_lam_of_the_reverse():
    log_p, log_q = both(8)
    expected = 0.1 * divergence(FORWARD, log_p, log_q) + 0.9 * divergence(REVERSE, log_p, log_q)
    torch.testing.assert_close(of("symmetric_kl", log_p, log_q), expected)


def test_akl_weighs_by_the_gaps_of_head_and_tail():
    p = torch.tensor([[0.1, 0.6, 0.2, 0.1]], dtype=WIDE)
    q = torch.tensor([[0.3, 0.4, 0.2, 0.1]], dtype=WIDE)
    forward, reverse = divergence(FORWARD, p.log(), q.log()), divergence(REVERSE, p.log(), q.log())
    # ascending and cumulated p: 0.1, 0.2, 0.4 are the tail, where the gap is 0.2 of 0.4 in all
    torch.testing.assert_close(of("akl", p.log(), q.log()), 0.5 * forward + 0.5 * reverse)


@pytest.mark.parametrize(("term", "expected"), [(FORWARD, "between"), (REVERSE, "on one")], ids=str)
def test_forward_kl_covers_both_modes_and_reverse_kl_seeks_one(term, expected):
    """One Gaussian is fitted to a mixture of two, on a grid."""
    grid = torch.linspace(-6, 6, 241)
    log_p = torch.logsumexp(torch.stack([-((grid - at) ** 2) / 0.5 for at in (-2.5, 2.5)]), 0).log_softmax(-1)
    mean, log_width = torch.tensor(0.8, requires_grad=True), torch.tensor(0.0, requires_grad=True)
    optimiser = torch.optim.Adam([mean, log_width], lr=0.05)
    for _ in range(300):
        optimiser.zero_grad()
        log_q = (-((grid - mean) ** 2) / (2 * (2 * log_width).exp())).log_softmax(-1)
        divergence(term, log_p, log_q).backward()
        optimiser.step()
    if expected == "between":
        assert abs(float(mean.detach())) < 0.3
        assert float(log_width.detach().exp()) > 2
    else:
        assert abs(float(mean.detach()) - 2.5) < 0.2
        assert float(log_width.detach().exp()) < 0.8


@settings(max_examples=8)
@given(seed=seeds)
def test_uld_knows_no_names(seed):
    log_p, log_q = both(seed)
    order = torch.randperm(log_p.shape[-1], generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(of("uld", log_p[:, order], log_q), of("uld", log_p, log_q))
    assert of("uld", log_p[:, order], log_p).max() < 1e-12


def test_uld_pads_the_smaller_vocabulary():
    log_p = torch.tensor([[0.5, 0.2, 0.2, 0.1]], dtype=WIDE).log()
    log_q = torch.tensor([[0.3, 0.7]], dtype=WIDE).log()
    assert float(of("uld", log_p, log_q)) == pytest.approx(0.2 + 0.1 + 0.2 + 0.1)
    assert float(of("uld", log_q, log_p)) == pytest.approx(0.6)


def test_uld_is_at_most_twice_the_total_variation():
    log_p, log_q = both(9)
    assert (of("uld", log_p, log_q) <= 2 * of("tvd", log_p, log_q) + 1e-12).all()
