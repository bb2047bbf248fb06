from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from safetensors.torch import load_file, save_file

from orchestrator.task import Digested
from tasks.data import Dataset
from tasks.model_distillation import views
from tasks.model_distillation.label_codec import kl_divergence
from tasks.model_distillation.label_files import KeptLabels
from tasks.model_distillation.label_rows import label_rows
from tasks.model_distillation.soft_labels import SoftLabels
from tasks.model_distillation.teachers import Teacher
from tests.tasks.harness import KilledError, equal, run_task

CHECKPOINTS = Path("~/.cache/limbeck/data/cifar_resnets").expanduser()
SMALL = {"epochs": 1, "views": "none", "views_per_shard": 2000, "features": False}


def seen_again(artifact, teacher, epoch, samples):
    """What the teacher says now of the views that the artifact tells."""
    data, kept = Dataset(name="digits").load(), KeptLabels.of(artifact)
    images = torch.from_numpy(data.train.images)
    drawn = views.draw(kept.views, kept.view_seed, epoch, samples, views.Extent.of(images))
    model = Teacher.model_validate(teacher).load(data.shape, 10, "cpu")
    with torch.inference_mode():
        return model.trace(views.apply(kept.views, images, drawn))


def test_a_shard_is_a_range_of_views(soft_labels):
    assert soft_labels.kind == "soft_labels"
    ranges = [(shard.identity["first"], shard.identity["last"]) for shard in soft_labels.shards]
    assert ranges == [(0, 1699), (1700, 3399), (3400, 4325)]
    for shard in soft_labels.shards:
        assert list(shard.names) == ["class_sums.safetensors", "labels.arrow"]
        assert shard.table("labels").num_rows == shard.identity["last"] + 1 - shard.identity["first"]


def test_the_schema_is_as_documented(soft_labels):
    schema = soft_labels.shards[0].table("labels").schema
    assert {field.name: str(field.type) for field in schema} == {
        "logits": "fixed_size_list<item: halffloat>[10]",
        "features": "fixed_size_list<item: halffloat>[32]",
    }


@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_labels_are_the_teachers_of_the_replayed_views(soft_labels, teacher, epoch):
    samples = np.array([3, 1441, 0, 700, 258])
    trace = seen_again(soft_labels, teacher, epoch, samples)
    logits, features = KeptLabels.of(soft_labels).read(epoch, samples)
    torch.testing.assert_close(logits, trace.logits, rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(features, trace.features, rtol=2e-3, atol=2e-3)


def test_epochs_are_different_views(soft_labels):
    kept = KeptLabels.of(soft_labels)
    first, second = (kept.read(epoch, np.arange(50))[0] for epoch in (0, 1))
    assert not torch.equal(first, second)
    assert torch.equal(first, kept.read(3, np.arange(50))[0])


def test_tells_what_the_labels_have_lost(soft_labels, teacher, trained):
    samples = np.arange(1442)
    kept = KeptLabels.of(soft_labels)
    for name, temperature in (("kl", 1.0), ("kl_t4", 4.0)):
        lost = torch.cat(
            [
                kl_divergence(
                    seen_again(soft_labels, teacher, epoch, samples).logits,
                    kept.read(epoch, samples)[0],
                    temperature,
                )
                for epoch in range(3)
            ]
        )
        assert soft_labels.metrics[f"{name}_mean"] == pytest.approx(float(lost.mean()), rel=0.05)
        assert soft_labels.metrics[f"{name}_max"] == pytest.approx(float(lost.max()), rel=0.05)
    assert soft_labels.metrics["kl_mean"] < 1e-6
    assert soft_labels.metrics["bytes_per_view"] == 84
    assert soft_labels.metrics["teacher_accuracy"] == trained.shards[0].metrics["test_accuracy"]


def test_class_means_are_those_of_the_features(soft_labels):
    kept, targets = KeptLabels.of(soft_labels), Dataset(name="digits").load().train.labels
    features = torch.stack([kept.read(epoch, np.arange(1442))[1] for epoch in range(3)])
    expected = torch.stack([features[:, targets == label].mean((0, 1)) for label in range(10)])
    torch.testing.assert_close(kept.class_means, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kill_after", [1, 8, 17])
def test_killed_and_resumed_is_undisturbed(soft_labels, label_config, kill_after):
    progress = {}
    with pytest.raises(KilledError):
        run_task(SoftLabels, label_config, progress=progress, kill_after=kill_after)
    assert equal(run_task(SoftLabels, label_config, progress=progress), soft_labels)


def test_views_do_not_depend_on_the_shards(soft_labels, label_config):
    """The teacher's batches do, and with them at most the last bit of a label."""
    other = run_task(SoftLabels, {**label_config, "views_per_shard": 900, "batch_size": 64})
    assert other.facts["view_seed"] == soft_labels.facts["view_seed"]
    samples = np.arange(1442)
    for epoch in range(3):
        found, expected = (KeptLabels.of(one).read(epoch, samples) for one in (other, soft_labels))
        torch.testing.assert_close(found[0], expected[0], rtol=1e-3, atol=1e-3)


def test_more_epochs_keep_the_full_shards_there_are(label_config, soft_labels):
    more = SoftLabels.Config.model_validate({**label_config, "epochs": 5})
    shards = SoftLabels.shards(more, soft_labels.facts)
    assert [shard.identity for shard in shards[:2]] == [shard.identity for shard in soft_labels.shards[:2]]
    assert shards[-1].identity["last"] == 5 * 1442 - 1


@pytest.mark.parametrize("labels", ["fp16", "bf16", "int8", {"precision": "top_k", "k": 3}])
@pytest.mark.parametrize("features", [False, True])
def test_estimates_its_disk_to_the_byte(label_config, labels, features):
    config = {**label_config, **SMALL, "labels": labels, "features": features}
    found = run_task(SoftLabels, config)
    estimate = SoftLabels.shards(SoftLabels.Config.model_validate(config), found.facts)[0].disk_bytes
    assert estimate == found.shards[0].table("labels").nbytes
    assert found.metrics["kl_mean"] < (0.05 if isinstance(labels, dict) else 1e-3)


def test_a_broken_teacher_is_told_apart_from_bad_samples(label_config, teacher, tmp_path):
    weights = load_file(teacher["checkpoint"])
    spoilt = {**weights, "conv1.weight": weights["conv1.weight"].clone()}
    spoilt["conv1.weight"][0, 0, 0, 0] = 1e38
    save_file(spoilt, tmp_path / "spoilt.safetensors")
    config = {**label_config, **SMALL}
    broken = {**teacher, "checkpoint": str(tmp_path / "spoilt.safetensors"), "std": (1e-3,)}
    with pytest.raises(
        ValueError, match="no view has a label, beginning with that of sample 0 in epoch 0: a logit"
    ):
        run_task(SoftLabels, {**config, "teacher": broken})


def test_what_is_put_aside_has_its_reason_and_no_place_in_an_epoch(
    label_config, teacher, small_dataset, tmp_path
):
    """Weights so large that only the brightest images go beyond fp16."""
    weights = load_file(teacher["checkpoint"])
    few = {
        **weights,
        "linear.weight": weights["linear.weight"][:3],
        "linear.bias": weights["linear.bias"][:3],
    }
    save_file({name: value.contiguous() for name, value in few.items()}, tmp_path / "three.safetensors")
    config = {**label_config, **SMALL, "dataset": small_dataset}
    config["teacher"] = {**teacher, "checkpoint": str(tmp_path / "three.safetensors")}
    plain = KeptLabels.of(run_task(SoftLabels, config)).read(0, np.arange(30))[0].abs().amax(1)
    scale = 65504 / float(plain.sort().values[-4])
    for name in ("linear.weight", "linear.bias"):
        few[name] = few[name] * scale
    save_file({name: value.contiguous() for name, value in few.items()}, tmp_path / "three.safetensors")
    found = run_task(SoftLabels, config)
    large = np.flatnonzero((plain > plain.sort().values[-4]).numpy())
    aside = found.table("set_aside")
    near = np.flatnonzero((plain >= plain.sort().values[-5]).numpy())
    assert set(large) <= set(aside["sample"].to_pylist()) <= set(near)
    assert set(aside["reason"].to_pylist()) == {"a logit is beyond fp16"}
    assert found.metrics["set_aside"] == aside.num_rows
    assert not set(KeptLabels.of(found).kept(0)) & set(aside["sample"].to_pylist())


def test_a_trained_teacher_is_an_input(trained, label_config, soft_labels):
    config = {**label_config, "teacher": None, "member": 0}
    found = run_task(SoftLabels, config, {"trained_teacher": trained})
    for mine, theirs in zip(found.shards, soft_labels.shards, strict=True):
        assert mine.table("labels").equals(theirs.table("labels"))
    other = run_task(SoftLabels, {**config, **SMALL, "member": 1}, {"trained_teacher": trained})
    assert other.facts["teacher_digest"] != found.facts["teacher_digest"]
    assert other.metrics["teacher_accuracy"] == trained.shards[1].metrics["test_accuracy"]


def test_mixed_views_have_no_class_means(label_config):
    found = run_task(SoftLabels, {**label_config, **SMALL, "views": {"mix": "cutmix"}})
    assert KeptLabels.of(found).class_means is None


def test_another_teacher_or_pre_processing_is_another_artifact(teacher, tmp_path):
    known = Teacher.model_validate(teacher)
    assert isinstance(known, Digested)
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(Path(teacher["checkpoint"]).read_bytes())
    assert (
        Teacher.model_validate({**teacher, "checkpoint": str(copy)}).content_digest()
        == known.content_digest()
    )
    for other in ({"mean": (0.1,)}, {"std": (0.9,)}):
        assert Teacher.model_validate({**teacher, **other}).content_digest() != known.content_digest()
    weights = load_file(copy)
    weights["conv1.weight"] = weights["conv1.weight"] + 1e-3
    save_file(weights, copy)
    assert (
        Teacher.model_validate({**teacher, "checkpoint": str(copy)}).content_digest()
        != known.content_digest()
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"teacher": None}, "give either `teacher` or `trained_teacher`"),
        ({"views": "none"}, "epochs is 3, but with views none all are equal"),
        ({"labels": {"precision": "top_k", "k": 10}}, "k is 10 of 10 classes"),
        ({"dataset": "fashion"}, "unknown dataset"),
    ],
)
def test_wrong_settings_are_refused_before_work_starts(label_config, wrong, message):
    with pytest.raises(ValueError, match=message):
        SoftLabels.describe(SoftLabels.Config.model_validate({**label_config, **wrong}), {})


def test_a_teacher_of_other_classes_is_refused_before_work_starts(label_config, small_dataset, trained):
    config = {**label_config, "dataset": small_dataset}
    with pytest.raises(
        ValueError, match="knows 10 classes, the dataset has 3; give a teacher of this dataset"
    ):
        SoftLabels.describe(SoftLabels.Config.model_validate(config), {})
    config |= {"teacher": None, "trained_teacher": "trained"}
    with pytest.raises(ValueError, match=r"was trained on images of \(1, 8, 8\) in 10 classes"):
        SoftLabels.describe(SoftLabels.Config.model_validate(config), {"trained_teacher": trained.facts})
    config = {**label_config, "teacher": None, "trained_teacher": "trained", "member": 2}
    with pytest.raises(ValueError, match="member 2: trained_teacher has the members 0 to 1"):
        SoftLabels.describe(SoftLabels.Config.model_validate(config), {"trained_teacher": trained.facts})


def test_rows_are_the_logits_of_every_view_but_those_put_aside(soft_labels):
    kept = KeptLabels.of(soft_labels)
    aside = replace(kept, set_aside=frozenset({(5, 1)}))
    rows = pa.concat_tables(label_rows(aside))
    assert rows.num_rows == kept.samples * kept.epochs - 1
    assert (5, 1) not in zip(rows["sample"].to_pylist(), rows["epoch"].to_pylist(), strict=True)
    chosen = rows.filter(pc.and_(pc.equal(rows["epoch"], 1), pc.is_in(rows["sample"], pa.array([0, 700]))))
    logits, features = kept.read(1, np.array([0, 700]))
    np.testing.assert_array_equal(np.array(chosen["logits"].to_pylist(), np.float32), logits.numpy())
    np.testing.assert_array_equal(np.array(chosen["features"].to_pylist(), np.float32), features.numpy())
