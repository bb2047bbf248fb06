import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.llm_distillation.losses import (
    DIVERGENCES,
    Divergence,
    Mixture,
    SampledTeacher,
    TopKTeacher,
    distillation_loss,
    divergence,
)

TIGHT = {"rtol": 1e-9, "atol": 1e-10}
NAMES = [name for name in DIVERGENCES if name != "uld"]


def loss(case, mixture, teacher):
    return distillation_loss(
        case.hidden, case.head, case.labels, mixture, teacher, vocabulary=40, budget_mb=0.01
    )


def only(name, temperature=1.0, **settings):
    return Mixture(divergences=(Divergence(name=name, temperature=temperature),), **settings)


def log_p(case):
    return (case.teacher.hidden @ case.teacher.head[:40].T).log_softmax(-1)


def top(case, k):
    found = log_p(case).topk(k, dim=-1)
    return TopKTeacher(found.indices, found.values)


def same_gradients(case, mine, theirs):
    for one, other in zip(case.gradients(mine), case.gradients(theirs), strict=True):
        torch.testing.assert_close(one, other, **TIGHT)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_all_tokens_cached_is_the_dense_teacher(case, name, temperature):
    mixture = only(name, temperature)
    found, expected = loss(case, mixture, top(case, 40)), case.plain(mixture)
    torch.testing.assert_close(found.total, expected, **TIGHT)
    same_gradients(case, found.total, expected)


def bucketed(case, k):
    """Log-probabilities of both models over the teacher's k tokens and the rest, by autograd."""
    teacher, student = log_p(case)[case.valid], case.logits()[0].log_softmax(-1)
    ids = teacher.topk(k, dim=-1).indices
    known = [one.gather(-1, ids) for one in (teacher, student)]
    return [torch.cat([one, (1 - one.exp().sum(-1, keepdim=True)).log()], -1) for one in known]


@pytest.mark.parametrize("name", NAMES)
def test_the_rest_is_one_more_class_of_both(case, name):
    mixture = only(name)
    expected = divergence(mixture.divergences[0], *bucketed(case, 5)).sum()
    found = loss(case, mixture, top(case, 5))
    torch.testing.assert_close(found.total, expected, **TIGHT)
    same_gradients(case, found.total, expected)


@pytest.mark.parametrize("name", ["forward_kl", "jsd", "skew_kl", "skew_reverse_kl", "tvd"])
def test_without_a_rest_the_teacher_is_scaled_and_the_student_is_whole(case, name):
    mixture = only(name, off_support="zero")
    whole = log_p(case)[case.valid]
    kept = whole.topk(5, dim=-1)
    scaled = torch.full_like(whole, -torch.inf).scatter(-1, kept.indices, kept.values).log_softmax(-1)
    expected = divergence(mixture.divergences[0], scaled, case.logits()[0].log_softmax(-1)).sum()
    found = loss(case, mixture, top(case, 5))
    torch.testing.assert_close(found.total, expected, **TIGHT)
    same_gradients(case, found.total, expected)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("symmetric_kl", "akl")])
def test_less_is_known_of_fewer_tokens(case, name):
    """Merging classes never raises an f-divergence."""
    totals = [float(loss(case, only(name), top(case, k)).total.detach()) for k in (1, 3, 10, 40)]
    assert totals == sorted(totals)


def test_the_given_tail_counts(case):
    known = top(case, 5)
    tail = 1 - known.log_probs.exp().sum(-1)
    mixture = only("reverse_kl", 1.5)
    given_tail = TopKTeacher(known.ids, known.log_probs, tail)
    assert loss(case, mixture, given_tail).total.equal(loss(case, mixture, known).total)
    other = TopKTeacher(known.ids, known.log_probs, tail / 2)
    assert not loss(case, mixture, other).total.equal(loss(case, mixture, known).total)


@pytest.mark.parametrize("name", NAMES)
def test_empty_places_count_for_nothing(case, name):
    known = top(case, 5)
    empty = torch.full_like(known.log_probs[:, :2], -torch.inf)
    padded = TopKTeacher(
        torch.cat([known.ids, known.ids[:, :2]], -1), torch.cat([known.log_probs, empty], -1)
    )
    found, expected = loss(case, only(name), padded), loss(case, only(name), known)
    torch.testing.assert_close(found.total, expected.total, **TIGHT)
    same_gradients(case, found.total, expected.total)


@settings(max_examples=3)
@given(seed=st.integers(0, 2**32))
def test_sampled_tokens_are_unbiased(seed):
    """Value and gradient of the mean over many draws are those of the dense forward KL."""
    draws = torch.Generator().manual_seed(seed)
    teacher = torch.randn(1, 6, generator=draws, dtype=torch.float64).log_softmax(-1)
    head = torch.randn(6, 6, generator=draws, dtype=torch.float64).requires_grad_()
    hidden = torch.ones(1, 6, dtype=torch.float64)
    many = 20000
    counts = torch.bincount(torch.multinomial(teacher.exp()[0], many, True, generator=draws), minlength=6)[
        None
    ]
    sampled = SampledTeacher(torch.arange(6)[None], counts, teacher)
    labels, mixture = torch.zeros(1, dtype=torch.long), only("forward_kl")
    found = distillation_loss(hidden, head, labels, mixture, sampled).total
    dense = divergence(mixture.divergences[0], teacher, (hidden @ head.T).log_softmax(-1)).sum()
    spread = float((teacher - (hidden @ head.T).log_softmax(-1)).std().detach()) + 1e-3
    assert abs(float((found - dense).detach())) < 6 * spread / many**0.5
    (mine,), (theirs,) = torch.autograd.grad(found, head), torch.autograd.grad(dense, head)
    assert (mine - theirs).abs().max() < 6 / many**0.5


def test_sampled_tokens_with_an_empty_place(case):
    known = top(case, 5)
    counts = torch.tensor([[3, 2, 1, 1, 0]]).expand(23, 5)
    full = SampledTeacher(known.ids, counts, known.log_probs)
    short = SampledTeacher(known.ids[:, :4], counts[:, :4], known.log_probs[:, :4])
    mixture = only("forward_kl")
    torch.testing.assert_close(loss(case, mixture, full).total, loss(case, mixture, short).total, **TIGHT)
    same_gradients(case, loss(case, mixture, full).total, loss(case, mixture, short).total)
