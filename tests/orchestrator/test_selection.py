"""Which artifacts a listing shows: conditions, dates, order."""

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import UserError
from orchestrator.selection import Condition, Selection, metric, moment
from orchestrator.store import Row


def row(number: int, stage: str = "scores", **metrics: float) -> Row:
    return Row(
        id=f"{number:032x}", digest="d", kind=f"kind{number % 2}", task="t", stage=stage, experiment="e",
        created=number, bytes=100 - number, shards=1, shard_seconds=None, inputs={}, metrics=metrics,
        data=[], source=None, commit=None, seen="",
    )  # fmt: skip


def chosen(rows, known=None, **asked) -> list[int]:
    return [found.created for found in Selection(**asked).of(rows, known or {})]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("scores.accuracy>0.9", Condition("scores.accuracy", ">", 0.9)),
        (" scores[width=32].accuracy >= -1e-3 ", Condition("scores[width=32].accuracy", ">=", -0.001)),
        ("loss=.5", Condition("loss", "=", 0.5)),
    ],
)
def test_a_condition_is_read(text, expected):
    assert Condition.parsed(text) == expected


@pytest.mark.parametrize("text", ["", "accuracy", "accuracy>", ">0.9", "accuracy>high", "accuracy~0.9"])
def test_what_is_no_condition_is_refused(text):
    with pytest.raises(UserError, match="expected a metric"):
        Condition.parsed(text)


def test_a_metric_goes_by_its_name_its_stage_and_its_matrix_point():
    one = row(1, "scores[width=32]", accuracy=0.5)
    names = ["accuracy", "scores.accuracy", "scores[width=32].accuracy", "scores[width=64].accuracy", "other"]
    assert [metric(one, name) for name in names] == [0.5, 0.5, 0.5, None, None]


def test_filters_are_all_to_hold():
    rows = [row(number, accuracy=number / 10) for number in range(10)] + [row(10, "other")]
    tags = {rows[7].id: ["paper", "good"], rows[9].id: ["paper"]}
    where = [Condition.parsed("scores.accuracy>0.45"), Condition.parsed("accuracy<=0.8")]
    assert chosen(rows, where=where) == [8, 7, 6, 5]
    assert chosen(rows, where=where, kind="kind1") == [7, 5]
    assert chosen(rows, tags, tags=["paper"]) == [9, 7]
    assert chosen(rows, tags, tags=["paper", "good"]) == [7]
    assert chosen(rows, since=8) == [10, 9, 8]
    assert chosen(rows, task="none") == []


def test_orders():
    rows = [row(1, "b", accuracy=0.5), row(2, "a", accuracy=0.9), row(3, "c")]
    assert chosen(rows) == [3, 2, 1]
    assert chosen(rows, reverse=True) == [1, 2, 3]
    assert chosen(rows, sort="size") == [1, 2, 3]
    assert chosen(rows, sort="stage") == [2, 1, 3]
    assert chosen(rows, sort="accuracy") == [2, 1, 3]
    assert chosen(rows, sort="accuracy", reverse=True) == [1, 2, 3]
    assert chosen(rows, limit=1) == [3]


@given(st.permutations([row(number, accuracy=float(number % 3)) for number in range(6)]))
def test_the_order_does_not_depend_on_that_of_the_store(rows):
    assert chosen(rows, sort="accuracy") == [5, 2, 4, 1, 3, 0]


def test_a_metric_that_nothing_has_is_told_with_the_nearest():
    rows = [row(1, "scores[width=32]", distilled_accuracy=0.5)]
    with pytest.raises(UserError, match=r"did you mean 'scores.distilled_accuracy'"):
        chosen(rows, where=[Condition.parsed("scores.distiled_accuracy>0")])
    with pytest.raises(UserError, match=r"made, size, shards"):
        chosen(rows, sort="sise")
    assert chosen([], sort="sise") == []


def test_moments():
    now = 1_000_000.0
    assert moment("12h", now) == int((now - 12 * 3600) * 1000)
    assert moment("2w", now) == int((now - 14 * 86400) * 1000)
    assert moment("2026-11-26", now) == int(datetime.datetime(2026, 11, 26).timestamp() * 1000)
    assert moment("2026-11-26T12:30", now) - moment("2026-11-26", now) == 12.5 * 3_600_000
    for text in ("yesterday", "3", "2026-13-01", ""):
        with pytest.raises(UserError, match="expected a date"):
            moment(text, now)
