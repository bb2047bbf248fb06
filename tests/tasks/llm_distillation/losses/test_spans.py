import pytest
import torch

from tasks.llm_distillation.losses import DenseTeacher, SpanCorrelation, span_loss, word_spans
from tasks.llm_distillation.losses.spans import OUTSIDE

TIGHT = {"rtol": 1e-9, "atol": 1e-11}
SPANS = torch.tensor([0] * 4 + [-1] * 2 + [1] * 3 + [2] + [3] * 6 + [-1] * 4 + [4] * 2 + [5])
DISTANCES = ["l2", "l1", "cosine", "kl"]


def loss(case, distance="l2", spans=SPANS, teacher=None, vocabulary=40, budget_mb=None, temperature=1.0):
    config = SpanCorrelation(distance=distance, weight=0.5, temperature=temperature)
    return span_loss(
        case.hidden,
        case.head,
        spans,
        case.teacher if teacher is None else teacher,
        config,
        vocabulary=vocabulary,
        budget_mb=budget_mb,
    )


def plain(case, distance):
    student, teacher = case.hidden @ case.head[:40].T, case.teacher.hidden @ case.teacher.head[:40].T
    total = 0
    for at in range(len(SPANS) - 1):
        if SPANS[at] == SPANS[at + 1] != OUTSIDE:
            p, q = (one[at].softmax(-1) * one[at + 1].softmax(-1) for one in (teacher, student))
            total = total + {
                "l2": lambda p, q: (p - q).pow(2).sum(),
                "l1": lambda p, q: (p - q).abs().sum(),
                "cosine": lambda p, q: 1 - p @ q / p.norm() / q.norm(),
                "kl": lambda p, q: (p / p.sum() * (p / p.sum() / (q / q.sum())).log()).sum(),
            }[distance](p, q)
    return 0.5 * total


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("budget_mb", [1e-6, 0.008, None])
def test_is_what_the_plain_way_finds_whatever_the_chunks(case, distance, budget_mb):
    found, expected = loss(case, distance, budget_mb=budget_mb), plain(case, distance)
    assert found.pairs == 3 + 2 + 0 + 5 + 1 + 0
    torch.testing.assert_close(found.total, expected, **TIGHT)
    for mine, theirs in zip(case.gradients(found.total), case.gradients(expected), strict=True):
        torch.testing.assert_close(mine, theirs, **TIGHT)


@pytest.mark.parametrize("distance", DISTANCES)
def test_is_zero_between_equals(case, distance):
    same = DenseTeacher(case.hidden.detach(), case.head.detach())
    assert abs(float(loss(case, distance, teacher=same).total.detach())) < 1e-12


@pytest.mark.parametrize("distance", DISTANCES)
def test_the_names_of_tokens_do_not_matter(case, distance):
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    other = case._replace(head=case.head[order])
    teacher = DenseTeacher(case.teacher.hidden, case.teacher.head[order])
    torch.testing.assert_close(
        loss(other, distance, teacher=teacher).total, loss(case, distance).total, **TIGHT
    )


def test_tokens_outside_of_spans_do_not_matter(case):
    outside = (SPANS == OUTSIDE) | (SPANS == 2) | (SPANS == 5)
    hidden = torch.where(outside[:, None], 9.0, case.hidden)
    assert loss(case._replace(hidden=hidden)).total.equal(loss(case).total)
    by_hidden = case.gradients(loss(case).total)[0]
    assert by_hidden[outside].eq(0).all()
    assert by_hidden[~outside].ne(0).all()


@pytest.mark.parametrize("spans", [torch.arange(23), torch.full((23,), OUTSIDE)])
def test_spans_of_one_token_are_nothing(case, spans):
    found = loss(case, spans=spans)
    assert found.pairs == 0
    assert float(found.total.detach()) == 0
    assert all(one.eq(0).all() for one in case.gradients(found.total))


def test_words_of_tokens():
    text = "The cat's  purr, loud"
    tokens = ["The", " c", "at", "'", "s", " ", " pu", "rr", ",", " lo", "ud", ""]
    offsets, at = [], 0
    for token in tokens:
        offsets.append((at, at + len(token)))
        at += len(token)
    assert word_spans(text, offsets) == [0, 1, 1, OUTSIDE, 2, OUTSIDE, 3, 3, OUTSIDE, 4, 4, OUTSIDE]
