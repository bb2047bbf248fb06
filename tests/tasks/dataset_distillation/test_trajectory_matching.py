from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.data import Dataset, Transform
from tasks.dataset_distillation.expert_trajectories import ExpertTrajectories
from tasks.dataset_distillation.trajectory_matching import TrajectoryMatching
from tests.tasks.harness import KilledError, equal, run_task

SHORT = {
    "iterations": 6,
    "student_steps": 3,
    "expert_epochs": 2,
    "max_start_epoch": 2,
    "pixel_lr": 10.0,
    "step_size": 0.05,
}
STILL = {**SHORT, "iterations": 1, "pixel_lr": 1e-30, "step_size_lr": 0.0}
EVERYTHING = {
    "images_per_class": 2,
    "batch_size": 12,
    "init": "representative",
    "perturb_weights": True,
    "balance_loss": True,
    "intermediate_matching": "adaptive",
    "student_momentum": 0.9,
    "labels": "learned",
    "pixel_ema": 0.9,
}


def match(experts, config=SHORT, **more):
    return run_task(TrajectoryMatching, config, {"experts": experts}, **more)


def describe(experts, settings):
    config = TrajectoryMatching.Config(experts="experts", **{**SHORT, **settings})
    return TrajectoryMatching.describe(config, {"experts": experts.facts})


def published(artifact):
    return artifact.shards[0].tensors("synthetic")


def test_publishes_images_labels_and_step_size(experts):
    found = match(experts, {**SHORT, "images_per_class": 2})
    synthetic = published(found)
    assert found.kind == "distilled"
    assert synthetic["images"].shape == (20, 1, 8, 8)
    assert synthetic["images"].dtype == torch.float32
    assert synthetic["labels"].tolist() == [c for c in range(10) for _ in range(2)]
    assert synthetic["learning_rate"].shape == ()
    assert float(synthetic["learning_rate"]) == pytest.approx(found.metrics["step_size"])
    same = ("data_digest", "shape", "classes", "network", "transform", "augment")
    assert {name: found.facts[name] for name in same} == {name: experts.facts[name] for name in same}
    assert (found.facts["images_per_class"], found.facts["soft_labels"]) == (2, False)
    assert all(torch.equal(found.tensors("transform")[n], t) for n, t in experts.tensors("transform").items())


def test_logs_curves_and_pictures(experts):
    shard = match(experts, {**SHORT, "log_every": 2, "preview_every": 3}).shards[0]
    assert [step for step, _ in shard.curves] == [2, 4, 6]
    assert all(metrics.keys() == {"matching_loss", "step_size"} for _, metrics in shard.curves)
    names = [(name, step) for name, step, _ in shard.previews]
    assert names == [("synthetic", 0), ("synthetic", 3), ("synthetic", 6), ("matching_loss", 6)]


def test_no_path_and_no_logging_stands_in_the_key(experts):
    config = TrajectoryMatching.Config(experts="experts", **SHORT)
    (shard,) = TrajectoryMatching.shards(config, describe(experts, {}))
    assert shard.ignores == {"dataset", "log_every", "preview_every"}


def test_neither_logging_nor_the_path_of_the_data_changes_the_result(experts):
    quiet = match(experts)
    loud = match(experts, {**SHORT, "log_every": 1, "preview_every": 1, "dataset": "digits"})
    assert equal(quiet, loud)


@pytest.mark.parametrize("switches", [{}, EVERYTHING])
@settings(deadline=None, max_examples=3, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kills=st.lists(st.integers(1, 2), min_size=1, max_size=2))
def test_killed_and_resumed_is_undisturbed(experts, switches, kills):
    config, progress = {**SHORT, **switches}, {}
    for kill_after in kills:
        with pytest.raises(KilledError):
            match(experts, config, progress=progress, kill_after=kill_after)
    assert equal(match(experts, config, progress=progress), match(experts, config))


@pytest.mark.parametrize("switch", EVERYTHING)
def test_every_switch_acts(experts, switch):
    changed = published(match(experts, {**SHORT, "iterations": 3, switch: EVERYTHING[switch]}))
    plain = published(match(experts, {**SHORT, "iterations": 3}))
    assert changed["images"].shape != plain["images"].shape or not torch.equal(
        changed["images"], plain["images"]
    )


def test_the_loss_starts_near_one_and_falls(experts):
    config = {**SHORT, "iterations": 60, "student_steps": 8, "log_every": 1, "pixel_lr": 100.0}
    losses = [metrics["matching_loss"] for _, metrics in match(experts, config).shards[0].curves]
    assert 0.5 < losses[0] < 1.3
    assert np.mean(losses[-20:]) < np.mean(losses[:20])


@pytest.mark.parametrize("init", ["random", "representative"])
def test_starts_from_distinct_real_images_class_after_class(experts, init):
    images = published(match(experts, {**STILL, "init": init, "images_per_class": 3}))["images"]
    data = Dataset(name="digits").load()
    real = Transform.from_tensors(experts.tensors("transform")).apply(data.train.images)
    distance = torch.cdist(images.flatten(1), real.flatten(1))
    found = distance.argmin(dim=1)
    assert torch.equal(real[found], images)
    assert data.train.labels[found].tolist() == [c for c in range(10) for _ in range(3)]
    assert len(set(found.tolist())) == 30


def test_the_augmentation_of_the_student_can_be_its_own(experts):
    plain = match(experts, {**SHORT, "augment": ""})
    assert plain.facts["augment"] == ""
    assert not equal(plain, match(experts))


def test_starts_from_noise(experts):
    images = published(match(experts, {**STILL, "init": "noise", "images_per_class": 10}))["images"]
    assert float(images.mean()) == pytest.approx(0, abs=0.05)
    assert float(images.std()) == pytest.approx(1, abs=0.05)


def test_soft_labels_are_probabilities_of_the_right_class(experts):
    for labels in ("soft", "learned"):
        found = match(experts, {**SHORT, "labels": labels, "label_init": "one_hot", "images_per_class": 2})
        probabilities = published(found)["labels"]
        assert found.facts["soft_labels"]
        assert torch.allclose(probabilities.sum(dim=1), torch.ones(20))
        assert probabilities.argmax(dim=1).tolist() == [c for c in range(10) for _ in range(2)]
    assert not torch.equal(probabilities[0], probabilities[1])


def test_the_average_of_the_pixels_is_published_in_their_place(experts):
    raw = published(match(experts, {**SHORT, "iterations": 2}))["images"]
    first = published(match(experts, STILL))["images"]
    half = published(match(experts, {**SHORT, "iterations": 1}))["images"]
    averaged = published(match(experts, {**SHORT, "iterations": 2, "pixel_ema": 0.75}))["images"]
    expected = 0.75 * (0.75 * first + 0.25 * half) + 0.25 * raw
    assert torch.allclose(averaged, expected, atol=1e-5)


class Recorded:
    """A shard that writes down which rows are read of it."""

    def __init__(self, shard, read):
        self.shard, self.read, self.identity = shard, read, shard.identity

    def tensors(self, name, rows=None):
        self.read.append(None if rows is None else list(rows))
        return self.shard.tensors(name, rows)


@pytest.mark.parametrize(("between", "length"), [("none", 2), ("equal", 3)])
def test_reads_only_the_snapshots_of_the_path(experts, between, length):
    read = []
    recorded = replace(experts, shards=[Recorded(shard, read) for shard in experts.shards])
    match(recorded, {**SHORT, "intermediate_matching": between})
    assert len(read) == 6
    assert all(len(rows) == length and rows[-1] - rows[0] == 2 for rows in read)
    assert {rows[0] for rows in read} == {0, 1}


def test_half_precision_snapshots_hardly_change_the_loss(experts, experts_config):
    half = run_task(ExpertTrajectories, {**experts_config, "precision": "fp16"})
    losses = [
        match(artifact, {**SHORT, "iterations": 1}).metrics["matching_loss"] for artifact in (half, experts)
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)


def test_a_step_size_that_is_no_longer_positive_is_refused(experts):
    with pytest.raises(
        ValueError, match=r"iteration \d: the learned step size fell to -.*lower step_size_lr"
    ):
        match(experts, {**SHORT, "step_size_lr": 1e6, "step_size": 1.0})


def test_a_diverging_student_is_stopped_with_advice(experts):
    with pytest.raises(ValueError, match=r"iteration 1: .*lower pixel_lr \(10.0\) or step_size \(1e\+30\)"):
        match(experts, {**SHORT, "step_size": 1e30})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"iterations": 0}, "greater than 0"),
        ({"images_per_class": 0}, "greater than 0"),
        ({"max_start_epoch": 4}, "lower max_start_epoch to 3 or less"),
        ({"expert_epochs": 5}, "lower expert_epochs to 4 or less"),
        (
            {"images_per_class": 1000},
            r"images_per_class: 1000 asked for, class '\d' of digits has \d+ training",
        ),
        ({"images_per_class": 1000, "init": "representative"}, "lower images_per_class or set init to noise"),
        ({"dataset": "fashion_mnits"}, "did you mean 'fashion_mnist'"),
        ({"augment": "croq"}, "did you mean 'crop'"),
        ({"student_steps": 1, "intermediate_matching": "equal"}, "raise student_steps"),
        ({"init": "noise", "labels": "learned"}, "set label_init to one_hot"),
    ],
)
def test_wrong_settings_are_refused_before_work_starts(experts, wrong, message):
    with pytest.raises(ValueError, match=message):
        describe(experts, wrong)


def test_what_just_fits_is_allowed(experts):
    describe(experts, {"max_start_epoch": 3})
    describe(experts, {"images_per_class": 1000, "init": "noise"})


def test_another_dataset_is_refused(experts, digits_copy):
    with pytest.raises(ValueError, match=r"dataset: npz has the digest .* the experts saw"):
        match(experts, {**SHORT, "dataset": digits_copy(500)})


def test_the_same_data_may_lie_elsewhere(digits_copy, experts_config, tmp_path):
    (tmp_path / "moved").mkdir()
    here, there = digits_copy(500), digits_copy(500, tmp_path / "moved")
    own = run_task(ExpertTrajectories, {**experts_config, "dataset": here, "experts": 1})
    before = match(own)
    for file in ("train", "test"):
        (tmp_path / f"{file}.npz").unlink()
    assert equal(match(own, {**SHORT, "dataset": there}), before)
