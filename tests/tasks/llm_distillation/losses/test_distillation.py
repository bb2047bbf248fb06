import pytest
import torch

from tasks.llm_distillation.losses import (
    DIVERGENCES,
    IGNORED,
    DenseTeacher,
    Divergence,
    Mixture,
    SampledTeacher,
    TopKTeacher,
    check_teacher,
    distillation_loss,
    shifted,
)

TIGHT = {"rtol": 1e-10, "atol": 1e-11}
SMALL = 5 * 40 * 8 * 2 / 2**20
"""Budget of five positions a chunk."""
MIXED = Mixture(
    divergences=(
        Divergence(name="jsd", weight=0.4, beta=0.3),
        Divergence(name="forward_kl", weight=0.7, temperature=2.0),
        Divergence(name="skew_reverse_kl", weight=0.2, temperature=2.0),
    ),
    cross_entropy=0.5,
)
MIXTURES = [Mixture(divergences=(Divergence(name=name),)) for name in DIVERGENCES if name != "uld"] + [
    Mixture(cross_entropy=1.0),
    MIXED,
]


def loss(case, mixture, **settings):
    settings = {"teacher": case.teacher, "vocabulary": case.vocabulary, "budget_mb": SMALL, **settings}
    return distillation_loss(case.hidden, case.head, case.labels, mixture, **settings)


@pytest.mark.parametrize("mixture", MIXTURES, ids=lambda m: "+".join(t.name for t in m.divergences) or "ce")
def test_is_what_the_plain_way_finds(case, mixture):
    found, expected = loss(case, mixture, kd_weight=0.6), case.plain(mixture, kd_weight=0.6)
    torch.testing.assert_close(found.total, expected, **TIGHT)
    for mine, theirs in zip(case.gradients(found.total), case.gradients(expected), strict=True):
        torch.testing.assert_close(mine, theirs, **TIGHT)
    assert found.tokens == int(case.valid.sum())


def test_padded_tokens_have_no_gradient(case):
    """trl 2215 and 6252: heads of one tokenizer with different padding."""
    _, by_head = case.gradients(loss(case, MIXED).total)
    assert by_head[40:].eq(0).all()
    assert by_head[:40].ne(0).any(-1).all()


@pytest.mark.parametrize("budget_mb", [1e-6, SMALL, None])
def test_the_size_of_a_chunk_changes_nothing(case, budget_mb):
    found, whole = loss(case, MIXED, budget_mb=budget_mb), loss(case, MIXED, budget_mb=1000.0)
    torch.testing.assert_close(found.total, whole.total, **TIGHT)
    for mine, theirs in zip(case.gradients(found.total), case.gradients(whole.total), strict=True):
        torch.testing.assert_close(mine, theirs, **TIGHT)


def test_terms_are_plain_sums_without_weights(case):
    found = loss(case, MIXED, kd_weight=0.5)
    terms = found.terms
    assert set(terms) == {"cross_entropy", "jsd", "forward_kl", "skew_reverse_kl"}
    total = 0.5 * terms["cross_entropy"] + 0.5 * (
        0.4 * terms["jsd"] + 0.7 * terms["forward_kl"] + 0.2 * terms["skew_reverse_kl"]
    )
    torch.testing.assert_close(found.total.detach(), total)
    alone = Mixture(divergences=(Divergence(name="jsd", beta=0.3),))
    torch.testing.assert_close(terms["jsd"], case.plain(alone).detach())


def test_no_cross_entropy_unless_asked_for(case):
    """trl 5731: Liger's default adds half of it."""
    only = Mixture(divergences=(Divergence(name="forward_kl"),))
    found = loss(case, only)
    assert set(found.terms) == {"forward_kl"}
    same = DenseTeacher(case.hidden.detach(), case.head.detach())
    assert float(loss(case, only, teacher=same).total.detach().abs()) < 1e-12


def test_gradcheck(case):
    """By finite differences; the loss anew for each gradient, as it goes backward once."""

    class Again(torch.autograd.Function):
        @staticmethod
        def forward(ctx, hidden, head):
            ctx.save_for_backward(hidden, head)
            return loss(case._replace(hidden=hidden, head=head), MIXED).total

        @staticmethod
        def backward(ctx, outer):
            with torch.enable_grad():
                hidden, head = (one.detach().requires_grad_() for one in ctx.saved_tensors)
                anew = case._replace(hidden=hidden, head=head)
                return tuple(outer * one for one in anew.gradients(loss(anew, MIXED).total))

    assert torch.autograd.gradcheck(Again.apply, (case.hidden, case.head))


def test_scaled_and_summed_before_backward(case):
    (3 * loss(case, MIXED).total + loss(case, MIXED).total).backward()
    for mine, theirs in zip((case.hidden, case.head), case.gradients(case.plain(MIXED)), strict=True):
        torch.testing.assert_close(mine.grad, 4 * theirs, **TIGHT)


def test_a_second_backward_is_refused(case):
    total = loss(case, MIXED).total
    total.backward(retain_graph=True)
    with pytest.raises(ValueError, match="went backward before"):
        total.backward()


def test_a_tied_head_gets_both_gradients(case):
    ids = torch.arange(len(case.labels)) % 40

    def tied(of):
        hidden = case.head[ids].tanh()
        (found,) = torch.autograd.grad(of(case._replace(hidden=hidden)), case.head)
        return found

    torch.testing.assert_close(tied(lambda c: loss(c, MIXED).total), tied(lambda c: c.plain(MIXED)), **TIGHT)


def test_a_frozen_head_and_no_gradient(case):
    frozen = case._replace(head=case.head.detach())
    (found,) = torch.autograd.grad(loss(frozen, MIXED).total, frozen.hidden)
    torch.testing.assert_close(found, case.gradients(case.plain(MIXED))[0], **TIGHT)
    with torch.no_grad():
        assert not loss(case, MIXED).total.requires_grad


def test_no_valid_position_gives_zero_and_zero_gradients(case):
    """All ranks have to have gradients, or the others wait for ever."""
    empty = case._replace(labels=torch.full_like(case.labels, IGNORED))
    found = loss(empty, MIXED)
    assert found.tokens == 0
    assert float(found.total.detach()) == 0
    assert all(one.eq(0).all() for one in case.gradients(found.total))


def test_bfloat16_sums_in_float32(case):
    low = case._replace(
        hidden=case.hidden.detach().bfloat16().requires_grad_(),
        head=case.head.detach().bfloat16().requires_grad_(),
        teacher=DenseTeacher(case.teacher.hidden.bfloat16(), case.teacher.head.bfloat16()),
    )
    found = loss(low, MIXED)
    assert found.total.dtype == torch.float32
    torch.testing.assert_close(found.total.double(), case.plain(MIXED), rtol=0.02, atol=0)
    for mine, theirs in zip(low.gradients(found.total), case.gradients(case.plain(MIXED)), strict=True):
        assert mine.dtype == torch.bfloat16
        assert (mine.double() - theirs).norm() < 0.03 * theirs.norm()


def test_another_tokenizer_by_uld(case):
    mixture = Mixture(divergences=(Divergence(name="uld"),), cross_entropy=0.1)
    student = case.hidden[case.valid] @ case.head[:40].T
    teacher = case.teacher.hidden[case.valid] @ case.teacher.head.T
    p = torch.nn.functional.pad(teacher.softmax(-1).sort(-1, descending=True).values, (0, 0))
    q = torch.nn.functional.pad(student.softmax(-1).sort(-1, descending=True).values, (0, 1))
    expected = (p - q).abs().sum() + 0.1 * torch.nn.functional.cross_entropy(
        student, case.labels[case.valid], reduction="sum"
    )
    found = loss(case, mixture)
    torch.testing.assert_close(found.total, expected, **TIGHT)
    for mine, theirs in zip(case.gradients(found.total), case.gradients(expected), strict=True):
        torch.testing.assert_close(mine, theirs, **TIGHT)


def test_positions_predict_the_next_token():
    """trl 5905 was off by one."""
    hidden, labels = torch.arange(6.0).reshape(1, 6, 1), torch.tensor([[IGNORED, IGNORED, 7, 8, 9, 1]])
    rows, targets = shifted(hidden, labels)
    assert dict(zip(rows.flatten().tolist(), targets.tolist(), strict=True)) == {
        0: IGNORED,
        1: 7,
        2: 8,
        3: 9,
        4: 1,
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocabulary": None}, "teacher's head has 41 tokens, the student's 43"),
        ({"vocabulary": 42}, "teacher's head has 41 tokens"),
        ({"vocabulary": 44}, "student's head has 43 tokens, the vocabulary 44"),
        ({"vocabulary": 20}, "labels reach from"),
        ({"teacher": None}, "no teacher is given"),
    ],
)
def test_what_does_not_fit_is_said(case, change, message):
    with pytest.raises(ValueError, match=message):
        loss(case, MIXED, **change)


def test_types_that_differ_are_said(case):
    with pytest.raises(ValueError, match="expected one type"):
        loss(case._replace(head=case.head.float()), MIXED)


def test_cached_ids_of_another_tokenizer_are_said(case):
    teacher = TopKTeacher(torch.full((23, 2), 40), torch.zeros(23, 2))
    with pytest.raises(ValueError, match="another tokenizer"):
        loss(case, MIXED, teacher=teacher)


@pytest.mark.parametrize(
    ("names", "kind", "off_support", "message"),
    [
        (["uld"], "top_k", "bucket", "whole distribution"),
        (["reverse_kl"], "top_k", "zero", "set off_support to bucket"),
        (["symmetric_kl", "jsd"], "top_k", "zero", "symmetric_kl is infinite"),
        (["jsd"], "sampled", "bucket", "forward_kl at temperature 1"),
    ],
)
def test_a_cached_teacher_that_does_not_define_a_divergence(names, kind, off_support, message):
    terms = tuple(Divergence(name=name) for name in names)
    with pytest.raises(ValueError, match=message):
        check_teacher(Mixture(divergences=terms, off_support=off_support), kind)


def test_a_cached_teacher_that_does():
    check_teacher(MIXED, "top_k")
    check_teacher(MIXED, "dense")
    check_teacher(Mixture(divergences=(Divergence(name="forward_kl"),), off_support="zero"), "top_k")
    check_teacher(Mixture(divergences=(Divergence(name="forward_kl"),)), "sampled")
    assert SampledTeacher.vocabulary is None
