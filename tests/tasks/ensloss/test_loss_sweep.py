"""The sweep as a task: its cells, pairs, keys, tables; stacked or not, killed or not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from orchestrator.experiment import parse_settings
from orchestrator.stagekeys import shard_key
from tasks.ensloss.loss_sweep import LossSweep
from tasks.ensloss.sweep_cells import Cell, cells_in, cells_of, identity
from tasks.ensloss.sweep_config import SweepConfig
from tests.tasks.harness import KilledError, run_task

SMALL = {
    "datasets": ["breast_cancer", {"name": "wine", "positive": ["class_0"]}],
    "networks": [{"name": "tabular_mlp", "depth": 1, "width": 8}],
    "losses": ["ensloss", "bce", "exponential"],
    "repeats": 3,
    "epochs": 6,
    "lr": 0.02,
    "stack": 1,
    "test_every": 3,
}


def swept(**changes):
    return run_task(LossSweep, config(**changes))


def config(**changes) -> SweepConfig:
    return parse_settings(SweepConfig, SMALL | changes)


def keys(**changes) -> dict[str, str]:
    """Shard to key."""
    made = config(**changes)
    shards = LossSweep.shards(made, LossSweep.describe(made, {}))
    return {shard.label: shard_key("loss_sweep", 1, 0, made, {}, shard) for shard in shards}


def results(artifact):
    """Cell to what it came to."""
    return {
        (shard.identity["data"], *told["cell"].values()): {**told, "cell": None}
        for shard in artifact.shards
        for told in shard.document("results")
    }


@pytest.fixture(scope="module")
def alone():
    return swept()


def test_cells_table_holds_every_cell_once(alone):
    rows = alone.table("cells").to_pylist()
    assert (
        len({(row["dataset"], row["network"], row["loss"], row["repeat"]) for row in rows}) == len(rows) == 18
    )
    assert all(0 <= row["test_accuracy"] <= 1 and 0 <= row["test_auc"] <= 1 for row in rows)


def test_small_networks_learn_these_tables(alone):
    assert alone.metrics["ensloss_accuracy"] > 0.85
    assert alone.metrics["bce_accuracy"] > 0.85


@pytest.mark.parametrize("stack", [2, 4, 9])
def test_stacks_come_to_the_same(alone, stack):
    stacked, single = results(swept(stack=stack)), results(alone)
    assert stacked.keys() == single.keys()
    for cell, row in single.items():
        assert stacked[cell]["epochs"] == row["epochs"]
        # a sample on the border may fall to the other side by rounding
        assert stacked[cell]["test_curve"] == pytest.approx(row["test_curve"], abs=0.02)


def test_killed_and_resumed_equals_undisturbed(alone):
    progress = {}
    with pytest.raises(KilledError):
        run_task(LossSweep, config(), progress=progress, kill_after=4)
    again = run_task(LossSweep, config(), progress=progress)
    assert results(again) == results(alone)
    assert again.table("summary") == alone.table("summary")


def test_a_repeat_gives_all_losses_the_same_start():
    """With a rate of almost nothing all losses stay where they began, so they score alike."""
    rows = swept(lr=1e-30, epochs=1, repeats=2).table("cells").to_pylist()
    by_pair = {}
    for row in rows:
        by_pair.setdefault((row["dataset"], row["repeat"]), set()).add(row["test_auc"])
    assert all(len(areas) == 1 for areas in by_pair.values())
    assert len({area for areas in by_pair.values() for area in areas}) == len(by_pair)


def test_comparisons_and_counts_fit_the_cells(alone):
    compared = alone.table("comparisons").to_pylist()
    cells = {
        (row["dataset"], row["loss"], row["repeat"]): row["test_accuracy"]
        for row in alone.table("cells").to_pylist()
    }
    for row in compared:
        each = [
            cells[row["dataset"], "ensloss", r] - cells[row["dataset"], row["against"], r] for r in range(3)
        ]
        assert row["difference_%"] == pytest.approx(100 * sum(each) / 3)
    bce = next(row for row in alone.table("summary").to_pylist() if row["loss"] == "bce")
    verdicts = [row["verdict"] for row in compared if row["against"] == "bce"]
    kinds = ("better", "no difference", "worse")
    assert bce["better-no diff-worse"] == "-".join(str(verdicts.count(kind)) for kind in kinds)


def test_metrics(alone):
    assert set(alone.metrics) == {
        "ensloss_accuracy", "bce_accuracy", "exponential_accuracy", "over_bce", "over_exponential",
    }  # fmt: skip
    difference = alone.metrics["ensloss_accuracy"] - alone.metrics["bce_accuracy"]
    assert alone.metrics["over_bce"] == pytest.approx(difference)


def test_pictures_and_curves(alone):
    assert {name for name, _, _ in alone.previews} == {"curves", "win_loss"}
    assert [step for step, _ in alone.shards[0].curves] == [3, 6]
    assert set(alone.shards[0].curves[0][1]) == {"ensloss_accuracy", "ensloss_train_accuracy"}
    assert alone.table("curves").num_rows == 36


def test_without_another_loss_there_is_nothing_to_compare():
    made = swept(losses=["bce"], datasets=["breast_cancer"], repeats=1)
    assert "comparisons.parquet" not in made.names
    assert set(made.metrics) == {"bce_accuracy"}


def test_more_repeats_losses_and_datasets_reuse_the_cells_there_are():
    before = keys()
    for more in (
        {"repeats": 5},
        {"losses": [*SMALL["losses"], "hinge"]},
        {"datasets": SMALL["datasets"][:1]},
    ):
        after = keys(**more)
        shared = before.keys() & after.keys()
        assert shared == (before.keys() if len(after) > len(before) else after.keys())
        assert all(before[label] == after[label] for label in shared)


def test_what_only_ensloss_reads_changes_no_other_cell():
    before, after = keys(), keys(lam=0.5)
    changed = {label for label in before if before[label] != after[label]}
    assert changed == {label for label in before if "ensloss" in label}


def test_the_author_s_settings_are_the_default():
    made = parse_settings(SweepConfig, {"datasets": ["breast_cancer"]})
    table, images = made.recipe(images=False), made.recipe(images=True)
    assert (table.epochs, table.test_every, table.weight_decay, *made.rates(images=False)) == (
        300,
        10,
        5e-6,
        1e-4,
    )
    assert (images.epochs, images.test_every, images.weight_decay, *made.rates(images=True)) == (
        200,
        5,
        5e-4,
        1e-3,
    )
    assert (made.batch_size, made.momentum, made.repeats, made.test_share) == (128, 0.9, 10, 0.3)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"losses": ["bce", "bce"]}, "name each once"),
        ({"losses": ["log"]}, "ensloss"),
        ({"datasets": []}, "at least 1"),
        ({"lr": 0}, "greater than 0"),
    ],
)
def test_wrong_settings_are_refused(changes, told):
    with pytest.raises(ValidationError, match=told):
        config(**changes)


def test_two_files_of_one_name_and_networks_that_do_not_fit_are_refused(tmp_path):
    path = tmp_path / "a" / "wine.csv"
    path.parent.mkdir()
    path.write_text("x,target\n" + "".join(f"{i},{i % 2}\n" for i in range(20)))
    other = {"name": "table", "path": str(path)}
    with pytest.raises(ValueError, match="two are called 'wine'"):
        LossSweep.describe(config(datasets=[SMALL["datasets"][1], other]), {})
    with pytest.raises(ValueError, match="use tabular_mlp"):
        LossSweep.describe(config(networks=["vgg16"]), {})


def test_a_renamed_file_and_a_title_change_no_key(tmp_path):
    text = "x,target\n" + "".join(f"{i % 7},{i % 2}\n" for i in range(40))
    found = []
    for name in ("before", "after"):
        path = tmp_path / f"{name}.csv"
        path.write_text(text)
        found.append(list(keys(datasets=[{"name": "table", "path": str(path)}]).values()))
    found.append(list(keys(datasets=[{"name": "table", "path": str(path), "title": "Mine"}]).values()))
    assert found[0] == found[1] == found[2]


def test_one_table_may_be_several_problems_under_titles():
    odd, first = ({"name": "wine", "positive": [f"class_{n}"]} for n in (1, 0))
    with pytest.raises(ValueError, match="give one of them a `title`"):
        LossSweep.describe(config(datasets=[odd, first]), {})
    made = swept(datasets=[odd, {**first, "title": "wine 0"}], repeats=1, losses=["bce"])
    assert {row["dataset"] for row in made.table("cells").to_pylist()} == {"wine", "wine-0"}


def test_the_same_data_twice_is_refused():
    twice = ["breast_cancer", {"name": "breast_cancer", "title": "again"}]
    with pytest.raises(ValueError, match="'breast_cancer' and 'again' hold the same data"):
        LossSweep.describe(config(datasets=twice), {})


def test_a_rate_that_explodes_names_the_cell():
    with pytest.raises(
        ValueError, match=r"breast_cancer, mlp1x8, exponential, repeat 0.*lower lr \(1e\+30\)"
    ):
        swept(lr=1e30, losses=["exponential"], datasets=["breast_cancer"], repeats=1)


cells = st.lists(
    st.builds(
        Cell,
        st.just("d"),
        st.just("mlp1"),
        st.floats(1e-8, 10),
        st.sampled_from(["ensloss", "bce"]),
        st.integers(0, 99),
    ),
    min_size=1,
    max_size=8,
)


@given(cells=cells)
def test_cells_survive_the_way_through_an_identity(cells):
    assert cells_in(identity(cells, "0" * 64), "d") == cells


def test_stacked_cells_come_in_the_order_of_rates_losses_repeats():
    found = cells_of("d", "n", (0.1, 0.2), ("a", "b"), 2)
    assert [(cell.lr, cell.loss, cell.repeat) for cell in found[:5]] == [
        (0.1, "a", 0), (0.1, "a", 1), (0.1, "b", 0), (0.1, "b", 1), (0.2, "a", 0),
    ]  # fmt: skip


def test_pace_of_a_stack_is_measured():
    made = config(stack=2)
    assert LossSweep.pace(made, LossSweep.describe(made, {}), "cpu") > 0


def test_choices_leave_work_for_two_workers():
    made = config(stack=None, repeats=1, losses=["ensloss", "bce"], datasets=["breast_cancer"])
    assert LossSweep.choices(made, LossSweep.describe(made, {}), "cpu") is None
    many = config(stack=None, repeats=10)
    found = LossSweep.choices(many, LossSweep.describe(many, {}), "cpu")
    assert [dict(one) for one in found.settings] == [{"stack": stack} for stack in (1, 2, 5, 10)]
    assert LossSweep.choices(config(stack=3), {}, "cpu") is None
