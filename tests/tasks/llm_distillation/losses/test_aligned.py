"""ULD between models whose positions are not each other's."""

import pytest
import torch

from tasks.llm_distillation.losses import AlignedTeacher, DenseTeacher, Divergence, Mixture, distillation_loss

ULD = Mixture(divergences=(Divergence(name="uld", weight=0.7, temperature=1.5),), cross_entropy=0.3)
ALONE = Mixture(divergences=(Divergence(name="uld"),))


def loss(case, teacher, mixture=ULD, **more):
    return distillation_loss(
        case.hidden, case.head, case.labels, mixture, teacher, vocabulary=case.vocabulary, **more
    )


@pytest.fixture
def aligned(case):
    """A teacher of 57 tokens and 31 positions; a third of the student's have no partner."""
    draws = torch.Generator().manual_seed(7)
    hidden, head = (torch.randn(size, 6, generator=draws, dtype=torch.float64) for size in (31, 57))
    places = torch.randint(0, 31, (len(case.labels),), generator=draws)
    places[::3] = -1
    return AlignedTeacher(hidden, head, places)


def test_partners_at_the_same_places_are_a_dense_teacher(case):
    dense = DenseTeacher(case.teacher.hidden, case.teacher.head[:40])
    places = torch.arange(len(case.labels))
    one, other = (
        loss(case, teacher) for teacher in (dense, AlignedTeacher(dense.hidden, dense.head, places))
    )
    torch.testing.assert_close(one.total, other.total)
    torch.testing.assert_close(case.gradients(one.total), case.gradients(other.total))


def test_a_model_and_itself_are_not_apart(case):
    hidden, head = case.hidden.detach(), case.head.detach()[: case.vocabulary]
    order = torch.randperm(len(hidden), generator=torch.Generator().manual_seed(1))
    shuffled = AlignedTeacher(hidden[order], head, order.argsort())
    assert loss(case, shuffled, ALONE).total.item() == pytest.approx(0.0, abs=1e-12)


def test_only_partners_count(case, aligned):
    found = loss(case, aligned, ALONE)
    paired = (aligned.places >= 0) & case.valid
    q = (case.hidden[paired] @ case.head[: case.vocabulary].T).softmax(-1).sort(-1, descending=True).values
    p = (aligned.hidden[aligned.places[paired]] @ aligned.head.T).softmax(-1).sort(-1, descending=True).values
    plain = (p - torch.nn.functional.pad(q, (0, 57 - case.vocabulary))).abs().sum()
    assert found.total.item() == pytest.approx(plain.item(), rel=1e-10)
    assert found.tokens == int(case.valid.sum())
    by_hidden, _ = case.gradients(found.total)
    assert not by_hidden[~paired].any()
    assert by_hidden[paired].any(-1).all()


def test_the_gradient_is_the_slope_of_the_loss(case, aligned):
    by_hidden, by_head = case.gradients(loss(case, aligned).total)
    draws, step = torch.Generator().manual_seed(3), 1e-6
    for weights, gradient in ((case.hidden, by_hidden), (case.head, by_head)):
        way = torch.randn(weights.shape, generator=draws, dtype=torch.float64)
        with torch.no_grad():
            up, down = (
                float(loss(case._replace(**{name: weights + sign * step * way}), aligned).total)
                for sign in (1, -1)
                for name in ["hidden" if weights is case.hidden else "head"]
            )
        assert (up - down) / (2 * step) == pytest.approx(float((gradient * way).sum()), rel=1e-6)


def test_the_names_of_the_teachers_tokens_mean_nothing(case, aligned):
    order = torch.randperm(57, generator=torch.Generator().manual_seed(5))
    renamed = AlignedTeacher(aligned.hidden, aligned.head[order], aligned.places)
    one, other = loss(case, aligned), loss(case, renamed)
    torch.testing.assert_close(one.total, other.total)
    torch.testing.assert_close(case.gradients(one.total), case.gradients(other.total))


def test_chunks_change_nothing(case, aligned):
    one, other = loss(case, aligned), loss(case, aligned, budget_mb=1e-9)
    torch.testing.assert_close(one.total, other.total)
    torch.testing.assert_close(case.gradients(one.total), case.gradients(other.total))


def test_without_partners_only_the_text_is_learned(case, aligned):
    alone = AlignedTeacher(aligned.hidden, aligned.head, torch.full_like(aligned.places, -1))
    found = loss(case, alone)
    assert float(found.terms["uld"]) == 0.0
    assert found.total.item() == pytest.approx(0.3 * float(found.terms["cross_entropy"]))
