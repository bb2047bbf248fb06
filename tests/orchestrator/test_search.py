"""The `search` block: what is refused and where, the points of random and grid searches, the rows that are kept."""

import csv
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from orchestrator.errors import LimbeckError, UserError
from orchestrator.experiment import load_experiment
from orchestrator.search import Distribution, Search, overrides, point
from orchestrator.searchplots import history, parallel
from orchestrator.spaces import load_search
from orchestrator.trials import Book, Curve, Row, as_csv, best_of, ranked
from orchestrator.yaml import parse_scalar, read_document, write_values

EXPERIMENT = """\
name: walks
stages:
  walk: {task: toy_walk, walks: 2, steps: 6}
  total: {task: toy_total, walks: "${walk}"}
search:
  metric: total.total
  space:
    stages.total.scale: {loguniform: [1, 100]}
    walk.steps: {randint: [3, 5]}
"""
ranges = st.tuples(st.integers(1, 50), st.integers(1, 50)).map(lambda pair: (pair[0], pair[0] + pair[1]))
fractions = st.floats(0, 1, exclude_max=True)


def made(**fields) -> Distribution:
    return Distribution.model_validate_json(json.dumps(fields))


def a_search(space, **fields) -> Search:
    return Search.model_validate_json(json.dumps({"metric": "total.total", "space": space, **fields}))


@given(ranges, fractions, st.sampled_from(["uniform", "loguniform", "randint", "lograndint"]))
def test_a_value_lies_between_the_ends(bounds, u, kind):
    one = made(**{kind: bounds})
    low, high = one.ends
    assert (low, high) == bounds
    assert low <= one.at(u) <= high
    assert one.at(0.0) == pytest.approx(low)
    assert isinstance(one.at(u), int) == kind.endswith("randint")
    assert one.snapped(one.at(u)) == one.at(u)


@given(ranges, st.integers(1, 7), fractions, st.sampled_from(["quniform", "qloguniform"]), st.booleans())
def test_a_stepped_value_lies_on_its_steps(bounds, step, u, kind, whole):
    low, high = bounds
    scale = 1 if whole else 0.1
    if step > high - low:
        return
    one = made(**{kind: (low * scale, high * scale, step * scale)})
    steps = (one.at(u) - low * scale) / (step * scale)
    assert steps == pytest.approx(round(steps), abs=1e-6)
    assert low * scale - 1e-9 <= one.at(u) <= high * scale + 1e-9
    assert isinstance(one.at(u), int) == whole


@given(st.lists(fractions, min_size=2, max_size=2).map(sorted))
def test_more_is_never_less(pair):
    for fields in ({"loguniform": (1, 1000)}, {"qloguniform": (1, 64, 1)}, {"lograndint": (1, 100)}):
        one = made(**fields)
        assert one.at(pair[0]) <= one.at(pair[1])


def test_whole_numbers_are_drawn_evenly_by_their_logarithm():
    one = made(lograndint=(1, 64))
    values = [one.at(index / 10_000) for index in range(10_000)]
    assert set(values) >= {1, 2, 3, 4, 64}
    share = sum(value <= 8 for value in values) / len(values)
    assert share == pytest.approx(math.log(8.5 / 0.5) / math.log(64.5 / 0.5), abs=0.01)


@pytest.mark.parametrize(
    "fields",
    [
        {}, {"uniform": (1, 2), "choice": (1,)}, {"uniform": (2, 1)}, {"loguniform": (0, 1)}, {"choice": ()},
        {"choice": (1, 1)}, {"quniform": (0, 1, 2)}, {"quniform": (0, 1, 0)}, {"randint": (1.5, 3)},
        {"uniform": (1,)}, {"normal": (0, 1)},
    ],
)  # fmt: skip
def test_a_distribution_that_makes_no_sense_is_refused(fields):
    with pytest.raises(ValidationError):
        made(**fields)


def test_points_depend_on_seed_number_and_name_alone():
    space = {"total.scale": {"uniform": [0, 1]}, "walk.steps": {"randint": [1, 1000]}}
    search, turned = a_search(space), a_search({f"stages.{name}": space[name] for name in reversed(space)})
    alone = a_search({"walk.steps": space["walk.steps"]}, concurrency=3, trials=4)
    points = [point(search, 7, number) for number in range(20)]
    assert points == [point(turned, 7, number) for number in range(20)]
    assert [one["walk.steps"] for one in points[:4]] == [point(alone, 7, n)["walk.steps"] for n in range(4)]
    assert len({one["total.scale"] for one in points}) == 20
    assert points != [point(search, 8, number) for number in range(20)]


def test_a_grid_has_every_combination_once():
    space = {"total.scale": {"grid": [1, 2]}, "walk.steps": {"choice": [3, 4, 5]}}
    search = a_search(space, algorithm="grid")
    points = [tuple(point(search, 0, number).values()) for number in range(search.count)]
    assert points == [(1, 3), (1, 4), (1, 5), (2, 3), (2, 4), (2, 5)]
    assert a_search(space, algorithm="grid", trials=4).count == 4


def test_another_number_of_trials_is_the_same_search():
    space = {"total.scale": {"uniform": [0, 1]}}
    same = a_search(space), a_search(space, trials=99, concurrency=1, time_budget_s=5.0)
    assert same[0].identity() == same[1].identity()
    assert same[0].identity() != a_search(space, scheduler="asha").identity()


@given(
    st.dictionaries(
        st.just("total.scale"),
        st.one_of(
            st.floats(allow_nan=False, allow_infinity=False), st.integers(), st.booleans(), st.none(),
            st.text("abnoyes: #'\"\\{}[]1e5.-~", max_size=8), st.lists(st.integers(), max_size=3),
        ),
    )
)  # fmt: skip
def test_overrides_say_the_very_value(chosen):
    for text, value in zip(overrides(chosen), chosen.values(), strict=True):
        read = parse_scalar(text.partition("=")[2])
        assert read == value
        assert type(read) is type(value)


@given(st.recursive(st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.integers(), st.booleans(),
    st.text("abnoyes: #'1e5.-~${}", max_size=8)), lambda one: st.dictionaries(st.text("ab", min_size=1), one) |
    st.lists(one, max_size=3), max_leaves=6))  # fmt: skip
def test_what_is_written_as_yaml_is_read_as_the_same(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("yaml") / "a.yaml"
    path.write_text(write_values({"name": value}))
    assert read_document(path).values == {"name": value}


@pytest.fixture
def told(tmp_path):
    """The message for the experiment with one thing replaced."""

    def told(old, new):
        assert old in EXPERIMENT
        path = tmp_path / "walks.yaml"
        path.write_text(EXPERIMENT.replace(old, new))
        with pytest.raises(UserError) as caught:
            load_search(path)
        assert "walks.yaml:" in str(caught.value)
        return str(caught.value)

    return told


@pytest.mark.parametrize(
    ("old", "new", "line", "expected"),
    [
        ("metric: total.total", "metric: totl.x", 6, "no stage 'totl'; did you mean 'total'?"),
        ("metric: total.total", "metric: total", 6, "expected stage.metric"),
        ("stages.total.scale", "stages.totl.scale", 8, "did you mean 'total'?"),
        ("total.scale", "total.scal", 8, "unknown key; did you mean 'scale'?"),
        ("walk.steps", "name", 9, "expected a setting of a stage"),
        ("walk.steps", "walk.task", 9, "cannot vary a stage's task"),
        ("randint: [3, 5]", "rndint: [3, 5]", 9, "did you mean 'randint'?"),
        ("randint: [3, 5]", "randint: [0, 5]", 9, "stages.walk.steps: found 0: Input should be greater"),
        ("randint: [3, 5]", "uniform: [3, 5]", 9, "stages.walk.steps: found 3.0: Input should be a valid integer"),
        ("randint: [3, 5]", "choice: [3, a]", 9, 'stages.walk.steps: found "a"'),
        ("randint: [3, 5]", "grid: [3, 5]", 6, "grid is for `algorithm: grid`"),
        ("  space:", "  algorithm: optna\n  space:", 7, "'random', 'grid' or 'optuna'"),
        ("  space:", "  algorithm: grid\n  space:", 6, "cannot list stages.total.scale: loguniform"),
        ("  space:", "  trails: 3\n  space:", 7, "did you mean 'trials'?"),
        ("walk.steps", "total.scale", 6, "twice"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_with_its_line(told, old, new, line, expected):
    message = told(old, new)
    assert expected in message
    assert f"walks.yaml:{line}: search" in message


def test_a_search_that_is_not_there(tmp_path):
    path = tmp_path / "walks.yaml"
    path.write_text(EXPERIMENT.partition("search:")[0])
    with pytest.raises(UserError, match="there is no `search` block"):
        load_search(path)


def test_the_metric_of_a_matrix_names_its_instance(told, tmp_path):
    several = 'walks: "${walk}", matrix: {scale: [1.5, 2]}'
    assert "stage total has 2 instances; name one, as total[scale=1.5].total" in told(
        'walks: "${walk}"', several
    )
    path = tmp_path / "walks.yaml"
    text = EXPERIMENT.replace('walks: "${walk}"', several).replace(
        "metric: total.total", "metric: total[scale=1.5].total"
    )
    path.write_text(text.replace("stages.total.scale: {loguniform: [1, 100]}", "seed: {choice: [0, 1]}"))
    assert load_search(path).search.metric == "total[scale=1.5].total"


def test_the_search_block_is_no_part_of_the_experiment(tmp_path):
    path = tmp_path / "walks.yaml"
    path.write_text(EXPERIMENT)
    plain = tmp_path / "plain.yaml"
    plain.write_text(EXPERIMENT.partition("search:")[0])
    assert load_experiment(path, ["search.trials=3"]).document == load_experiment(plain).document
    assert load_search(path, ["search.trials=3"]).search.count == 3


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9), st.floats(-1, 1)), max_size=40))
def test_the_curve_of_a_trial_goes_forward(points):
    curve, steps = Curve(), [0]
    for shard, step, value in points:
        found = curve.add(shard, step, value)
        if found:
            steps.append(found[0])
            assert -1 <= found[1] <= 1
    assert steps == sorted(set(steps))


def test_the_curve_of_one_shard_is_its_own():
    curve = Curve()
    assert [curve.add("a", step, step / 2) for step in (1, 5, 9)] == [(1, 0.5), (5, 2.5), (9, 4.5)]
    assert curve.add("b", 1, 0.5) == (10, 2.5)


def rows():
    """Five trials, one of each kind and two that are done."""
    one = {"run_id": "r", "point": {"total.scale": 2.0, "walk.steps": 3}}
    return [
        Row(number=0, state="done", metric=0.5, **one), Row(number=1, state="failed", error="no", **one),
        Row(number=2, state="stopped", metric=0.9, curve=((1, 0.9),), **one),
        Row(number=3, state="done", metric=0.7, **one), Row(number=4, state="interrupted", **one),
    ]  # fmt: skip


def test_the_best_is_done():
    search = a_search({"total.scale": {"uniform": [1, 3]}, "walk.steps": {"randint": [1, 5]}})
    assert [row.number for row in ranked(rows(), search)] == [3, 0, 2, 1, 4]
    least = search.model_copy(update={"mode": "min"})
    assert best_of(rows(), least).number == 0
    assert best_of(rows()[1:3], search) is None
    lines = list(csv.DictReader(as_csv(rows()).splitlines()))
    assert [line["metric"] for line in lines] == ["0.5", "", "0.9", "0.7", ""]
    assert lines[0]["total.scale"] == "2.0"
    for picture in (history(rows(), search), parallel(rows(), search)):
        assert picture.startswith(b"\x89PNG")


def test_a_book_is_read_as_it_was_kept(tmp_path):
    book = Book(tmp_path / "walks-12345678", {"search": {}})
    row = book.begin(3, {"total.scale": 2.5})
    assert row.run_id == f"{book.id}-0003"
    for one in rows():
        book.keep(one)
    again = Book(tmp_path / "walks-12345678", {"search": {}})
    assert again.id == book.id
    assert again.rows() == rows()
    assert again.rows(2) == rows()[:2]
    with book.alone(), pytest.raises(LimbeckError, match="another process is at it"), again.alone():
        pass


def test_a_row_of_another_version_is_refused_with_its_path(tmp_path):
    book = Book(tmp_path / "walks-12345678", {})
    (book.folder / "trials" / "0001.json").write_text('{"number": 1}')
    with pytest.raises(UserError, match=r"0001.json: not a trial of this version"):
        Book(tmp_path / "walks-12345678", {})
