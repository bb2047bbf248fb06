import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from orchestrator.stagekeys import shard_key
from tasks.dataset_distillation.evaluate_distilled import EvaluateDistilled
from tests.tasks.dataset_distillation.sets import DIGITS, MLP, evaluated, imported, parsed, real_rows
from tests.tasks.harness import KilledError, equal

ALL = ["random", "kmeans", "full"]


@pytest.fixture(scope="module")
def distilled(tmp_path_factory):
    return imported(tmp_path_factory.mktemp("set"), 2)


@pytest.fixture(scope="module")
def scores(distilled):
    return evaluated(distilled, controls=ALL)


def cells(artifact):
    return {cell.label: cell for cell in map(Cell, artifact.shards)}


class Cell:
    """A cell with its curve, comparable."""

    def __init__(self, shard):
        self.label = (shard.identity["set"], shard.identity["network"], shard.identity["repeat"])
        self.value = (dict(shard.metrics), dict(shard.facts), shard.curves)

    def __eq__(self, other):
        return self.value == other.value


def keys(facts, source="a" * 32, **settings):
    """Cell to key, as the engine makes them."""
    config = parsed(EvaluateDistilled, **{"distilled": "set", "controls": ALL} | settings)
    described = EvaluateDistilled.describe(config, {"distilled": facts})
    inputs = {"distilled": source}
    return {
        (shard.identity["set"], shard.identity["network"], shard.identity["repeat"]): shard_key(
            "evaluate_distilled", 1, 0, config, inputs, shard
        )
        for shard in EvaluateDistilled.shards(config, described)
    }


def changed(facts, source="a" * 32, others=None, **settings):
    """The sets whose cells get another key by the change."""
    before, after = keys(others or facts), keys(facts, source, **settings)
    assert before.keys() == after.keys()
    return {cell[0] for cell in before if before[cell] != after[cell]}


def test_cells_are_the_same_bits_each_time_and_differ_across_repeats(distilled, scores):
    again = evaluated(distilled, controls=ALL)
    assert equal(scores, again)
    assert cells(again) == cells(scores)
    curves = [(shard.identity["set"], str(shard.curves)) for shard in scores.shards]
    assert len(set(curves)) == len(curves) == 8


def test_a_cell_does_not_depend_on_its_siblings(distilled, scores):
    alone = cells(evaluated(distilled, controls=["kmeans"], repeats=1))
    assert alone == {label: cell for label, cell in cells(scores).items() if label in alone}
    assert {label[0] for label in alone} == {"distilled", "kmeans"}


def test_another_seed_gives_other_numbers(distilled, scores):
    assert cells(evaluated(distilled, seed=1)) != {
        label: cell for label, cell in cells(scores).items() if label[0] == "distilled"
    }


def test_curves_are_tested_when_asked_and_the_last_epoch_is_reported(scores):
    for shard in scores.shards:
        curve = {step: metrics["test_accuracy"] for step, metrics in shard.curves}
        last = 4 if shard.identity["set"] == "full" else 12
        assert list(curve) == ([1, 2, 3, 4] if last == 4 else [5, 10, 12])
        assert shard.metrics["accuracy"] == curve[last]
        assert shard.metrics["best_accuracy"] == max(curve.values())
        assert curve[shard.facts["best_epoch"]] == shard.metrics["best_accuracy"]
        assert 0 <= shard.metrics["accuracy"] <= 1


def test_metrics_and_tables_agree_with_the_cells(scores):
    table = scores.table("cells").to_pylist()
    assert len(table) == 8
    for name in ("distilled", *ALL):
        values = np.array([row["accuracy"] for row in table if row["set"] == name])
        assert scores.metrics[f"{name}_accuracy"] == pytest.approx(values.mean())
        assert scores.metrics[f"{name}_accuracy_se"] == pytest.approx(values.std(ddof=1) / math.sqrt(2))
    gap = scores.metrics["distilled_accuracy"] - scores.metrics["random_accuracy"]
    assert scores.metrics["over_random"] == pytest.approx(gap)
    summary = scores.table("summary").to_pylist()
    assert [row["set"] for row in summary] == ["distilled", *ALL]
    assert summary[0]["over_random"] == pytest.approx(100 * gap, abs=0.01)
    assert [name for name, _, _ in scores.previews] == ["accuracy"]
    assert scores.kind == "scores"


def test_the_step_size_is_the_learned_one_unless_set(distilled):
    rates = {shard.facts["learning_rate"] for shard in evaluated(distilled, epochs=1).shards}
    assert rates == {float(np.float32(0.02))}
    rows = evaluated(distilled, epochs=1, repeats=1, learning_rate=0.5, controls=["random"]).table("cells")
    assert dict(zip(rows["set"].to_pylist(), rows["learning_rate"].to_pylist(), strict=True)) == {
        "distilled": 0.5,
        "random": 0.01,
    }


def test_a_single_repeat_has_no_standard_error(distilled):
    metrics = evaluated(distilled, epochs=1, repeats=1).metrics
    assert sorted(metrics) == ["distilled_accuracy", "distilled_best_accuracy"]


def test_further_networks_stand_under_their_labels(distilled):
    networks = [MLP, MLP | {"width": 16}, {"name": "convnet", "width": 4, "depth": 1}]
    scores = evaluated(distilled, epochs=1, repeats=1, networks=networks, controls=["random"])
    names = {name.rpartition(".")[0] for name in scores.metrics}
    assert names == {"", "mlp_w16_d2", "convnet"}
    assert {"over_random", "mlp_w16_d2.over_random", "convnet.random_accuracy"} <= scores.metrics.keys()


def test_soft_labels_are_trained_on(tmp_path, distilled):
    labels = np.full((20, 10), 0.01, np.float32)
    labels[np.arange(20), np.arange(10).repeat(2)] = 0.91
    np.savez(tmp_path / "soft.npz", labels=labels)
    soft = imported(tmp_path, 2, labels=str(tmp_path / "soft.npz"))
    assert soft.facts["soft_labels"]
    hard_loss, soft_loss = (
        evaluated(given, repeats=1, epochs=1).shards[0].facts["train_loss"] for given in (distilled, soft)
    )
    assert hard_loss != soft_loss


@pytest.mark.parametrize("kill_after", [1, 2, 3])
def test_a_long_cell_goes_on_to_the_same_bits(distilled, kill_after):
    long = {"controls": ["full"], "repeats": 1, "epochs": 1, "augment": "color_crop"}
    whole, progress = evaluated(distilled, **long), {}
    with pytest.raises(KilledError):
        evaluated(distilled, progress, kill_after, **long)
    resumed = evaluated(distilled, progress, **long)
    assert equal(whole, resumed)
    steps = {shard.identity["set"]: [step for step, _ in shard.curves] for shard in resumed.shards}
    assert steps["full"] == list(range(kill_after + 1, 5))


def test_the_keys_of_controls_do_not_depend_on_the_distilled_set(distilled, tmp_path):
    facts = distilled.facts
    assert changed(facts, source="b" * 32) == {"distilled"}
    assert changed(imported(tmp_path, 2, seed=3).facts, source="b" * 32, others=facts) == {"distilled"}
    other_network = {**facts, "network": {"name": "convnet", "width": 8}}
    assert not set(keys(facts).values()) & set(keys(other_network).values())


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"learning_rate": 0.1}, {"distilled"}),
        ({"control_learning_rate": 0.1}, set(ALL)),
        ({"epochs": 7}, {"distilled", "random", "kmeans"}),
        ({"test_every": 7}, {"distilled", "random", "kmeans"}),
        ({"full_epochs": 7}, {"full"}),
        ({"batch_size": 7}, {"distilled", *ALL}),
        ({"momentum": 0.5}, {"distilled", *ALL}),
        ({"weight_decay": 0.0}, {"distilled", *ALL}),
        ({"augment": "flip"}, {"distilled", *ALL}),
        ({"augment": "crop"}, set()),
        ({"dataset": "digits"}, set()),
        ({"networks": [MLP]}, set()),
    ],
)
def test_a_setting_changes_the_keys_of_those_cells_only_that_read_it(distilled, settings, expected):
    assert changed(distilled.facts, **settings) == expected


def test_other_numbers_of_images_or_another_space_change_the_controls(distilled, tmp_path):
    facts = distilled.facts
    more = imported(tmp_path, 3).facts
    assert changed(more, others=facts) == {"random", "kmeans"}
    assert changed({**facts, "transform": "zca"}, others=facts) == set(ALL)


def test_more_repeats_controls_and_networks_reuse_the_rest(distilled):
    few = keys(distilled.facts, controls=["random"], repeats=2)
    many = keys(distilled.facts, repeats=3, networks=[MLP, "convnet"])
    assert few.items() <= many.items()
    assert len(set(many.values())) == len(many) == 4 * 2 * 3


def test_full_data_beats_random_images_on_digits(tmp_path):
    one = imported(tmp_path, 1, network={"name": "mlp", "width": 64, "depth": 2})
    scores = evaluated(one, controls=["random", "full"], epochs=60, full_epochs=30, augment="")
    assert scores.metrics["full_accuracy"] > 0.9 > scores.metrics["random_accuracy"] + 0.1
    assert scores.metrics["random_accuracy"] > 0.3


def test_a_diverging_training_publishes_nothing(distilled):
    with pytest.raises(ValueError, match="train_loss is"):
        evaluated(distilled, learning_rate=1e20, epochs=30)


def described(facts, **settings):
    config = parsed(EvaluateDistilled, **{"distilled": "set"} | settings)
    return EvaluateDistilled.describe(config, {"distilled": facts})


def test_other_data_than_that_of_the_set_is_refused(distilled, tmp_path):
    for split in ("train", "test"):
        np.savez(tmp_path / f"{split}.npz", images=np.zeros((2, 8, 8), np.uint8), labels=np.arange(2))
    dataset = {"name": "npz", **{split: str(tmp_path / f"{split}.npz") for split in ("train", "test")}}
    with pytest.raises(
        ValueError, match=rf"npz has the digest .*{distilled.facts['data_digest']}.*set `dataset`"
    ):
        described(distilled.facts, dataset=dataset)


def test_data_that_has_moved_is_named_with_what_to_do(distilled, tmp_path):
    gone = {"name": "npz", "train": str(tmp_path / "a.npz"), "test": str(tmp_path / "b.npz")}
    with pytest.raises(ValueError, match=r"a\.npz.*set `dataset` to where the data lies"):
        described({**distilled.facts, "dataset": gone})


def test_more_images_a_class_than_there_are_leave_no_control(distilled):
    facts = {**distilled.facts, "images_per_class": 150}
    with pytest.raises(ValueError, match=r"controls: a class of digits has 140 .* 150 a class; leave out"):
        described(facts)
    assert described(facts, controls=["full"])["images_per_class"] == 150


def test_a_network_that_does_not_fit_is_refused(distilled):
    with pytest.raises(ValueError, match="depth 4 is too large"):
        described(distilled.facts, networks=[{"name": "convnet", "depth": 4}])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"controls": ["random", "random"]}, "name each once"),
        ({"controls": ["means"]}, "'random', 'kmeans' or 'full'"),
        ({"augment": "crop_flop"}, "flip"),
        ({"repeats": 0}, "greater than or equal to 1"),
        ({"epochs": 0}, "greater than or equal to 1"),
        ({"learning_rate": 0.0}, "greater than 0"),
        ({"epoch": 3}, "Extra inputs"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        parsed(EvaluateDistilled, distilled="set", **settings)


def test_no_random_number_of_the_process_is_used_or_changed(distilled, scores):
    torch.manual_seed(5)
    np.random.seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    again = evaluated(distilled, controls=ALL)
    assert cells(again) == cells(scores)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])


def test_real_rows_of_the_helpers_are_class_after_class():
    assert DIGITS.train.labels[real_rows(2)].tolist() == [c for c in range(10) for _ in range(2)]
