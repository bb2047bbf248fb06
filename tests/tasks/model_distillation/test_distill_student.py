"""Students as a task: cells, pairs, keys, tables, files; killed or not, on one rank or two."""

import pytest
import torch
from pydantic import ValidationError

from orchestrator.experiment import parse_settings
from orchestrator.stagekeys import shard_key
from tasks.model_distillation.distill_student import DistillStudent
from tasks.model_distillation.soft_labels import SoftLabels
from tasks.model_distillation.student_config import StudentConfig
from tasks.model_distillation.teachers import load_trained
from tasks.model_distillation.train_teacher import TrainTeacher
from tests.tasks.gang_harness import run_gang
from tests.tasks.harness import KilledError, equal, run_task

SMALL = {
    "dataset": "digits",
    "student": {"name": "mlp", "width": 16, "depth": 2},
    "methods": ["control", "kd", {"name": "kd", "title": "kd_plus", "nd": 2.0}, "dhkd"],
    "repeats": 2,
    "epochs": 3,
    "batch_size": 64,
    "test_every": 2,
}


def config(**changes) -> StudentConfig:
    return parse_settings(StudentConfig, SMALL | {"labels": "labels"} | changes)


def taught(soft_labels, **changes):
    return run_task(DistillStudent, config(**changes), {"labels": soft_labels})


def keys(soft_labels, **changes):
    """Shard to key."""
    made = config(**changes)
    facts = DistillStudent.describe(made, {"labels": soft_labels.facts})
    inputs = {"labels": "key-of-the-labels"}
    return {
        shard.label: shard_key("distill_student", 1, 0, made, inputs, shard)
        for shard in DistillStudent.shards(made, facts)
    }


@pytest.fixture(scope="module")
def students(soft_labels):
    return taught(soft_labels)


@pytest.mark.slow
def test_one_shard_a_student(students):
    assert [dict(shard.identity) for shard in students.shards][:3] == [
        {"method": "ce1.0", "repeat": 0},
        {"method": "ce1.0", "repeat": 1},
        {"method": "ce0.1-kd0.9", "repeat": 0},
    ]
    assert [step for step, _ in students.shards[0].curves] == [1, 2, 3]
    assert [set(metrics) for _, metrics in students.shards[0].curves] == [
        {"train_loss"}, {"train_loss", "accuracy"}, {"train_loss", "accuracy"},
    ]  # fmt: skip
    assert students.kind == "classifier"


def test_tables_and_metrics_fit_the_students(students):
    rows = {row["method"]: row for row in students.table("summary").to_pylist()}
    assert list(rows) == ["control", "kd", "kd_plus", "dhkd"]
    cells = students.table("cells").to_pylist()
    for method, row in rows.items():
        own = [cell for cell in cells if cell["method"] == method]
        accuracy = sum(cell["accuracy"] for cell in own) / 2
        assert row["accuracy_%"] == pytest.approx(100 * accuracy, abs=0.01)
        assert students.metrics[f"{method}_accuracy"] == pytest.approx(accuracy)
        half = abs(own[0]["accuracy"] - own[1]["accuracy"]) / 2
        assert students.metrics[f"{method}_accuracy_se"] == pytest.approx(half)
    control = {cell["repeat"]: cell["accuracy"] for cell in cells if cell["method"] == "control"}
    gains = [cell["accuracy"] - control[cell["repeat"]] for cell in cells if cell["method"] == "dhkd"]
    assert students.metrics["dhkd_gain"] == pytest.approx(sum(gains) / 2)
    assert rows["control"]["gain_%"] is None
    assert 0.5 < students.metrics["teacher_accuracy"] <= 1


def test_the_bins_hold_every_test_image_of_every_student(students, soft_labels):
    rows = students.table("reliability").to_pylist()
    tested = len(soft_labels.tensors("teacher_on_test")["classes"])
    for method in ("control", "dhkd"):
        assert sum(row["samples"] for row in rows if row["method"] == method) == 2 * tested
    assert {name for name, _, _ in students.previews} == {"accuracy", "reliability", "curves"}
    assert students.table("curves").num_rows == 4 * 2 * 3


def test_a_student_is_scored_as_it_is_kept(students, soft_labels):
    """The weights that are published, loaded as a teacher, give the accuracy that is told."""
    data = config().dataset.load().test
    for member in (0, 5):
        loaded = load_trained(students, member, "cpu")
        with torch.no_grad():
            chosen = loaded(torch.from_numpy(data.images).float() / 255).argmax(1)
        metrics = students.shards[member].metrics
        right = (chosen == torch.from_numpy(data.labels)).double().mean()
        assert metrics["accuracy"] == pytest.approx(float(right))
        agrees = (chosen == soft_labels.tensors("teacher_on_test")["classes"]).double().mean()
        assert metrics["agreement"] == pytest.approx(float(agrees))


def test_what_is_published_tells_what_it_is(students):
    last = students.shards[6]
    assert dict(last.identity)["repeat"] == 0
    shown = students.tensors("model")
    assert all(torch.equal(value, shown[name]) for name, value in last.tensors("weights").items())
    told = students.document("config")
    assert (told["classifier"]["name"], told["class_names"]) == ("mlp", [*"0123456789"])
    card = students.document("card")
    assert card["title"] == "mlp2x16 for digits, trained by dhkd"
    assert students.facts["data_digest"] in card["text"]
    assert "| kd_plus | 2 |" in card["text"]


def test_another_method_is_published_on_demand_and_recomputes_nothing(students, soft_labels):
    assert keys(soft_labels, published="kd") == keys(soft_labels)
    made = taught(soft_labels, published="control", methods=["control"], repeats=1)
    assert made.document("card")["title"].endswith("trained by control")


def test_killed_and_resumed_equals_undisturbed(students, soft_labels):
    progress = {}
    for kill_after in (1, 2):
        with pytest.raises(KilledError):
            run_task(
                DistillStudent, config(), {"labels": soft_labels}, progress=progress, kill_after=kill_after
            )
    again = run_task(DistillStudent, config(), {"labels": soft_labels}, progress=progress)
    assert equal(again, students)
    assert again.table("curves") == students.table("curves")


def test_a_repeat_gives_all_methods_the_same_start(soft_labels):
    """With a rate of almost nothing all of them stay where they began."""
    still = {"lr": 1e-30, "weight_decay": 0.0}
    made = taught(soft_labels, epochs=1, optimisation=still, methods=["control", "kd", "dhkd"])
    first = {}
    for shard in made.shards:
        weights = shard.tensors("weights")["head.weight"]
        assert torch.equal(weights, first.setdefault(shard.identity["repeat"], weights))
    assert not torch.equal(*first.values())


def test_more_methods_and_repeats_reuse_the_students_there_are(soft_labels):
    before = keys(soft_labels)
    for more in ({"repeats": 3}, {"methods": [*SMALL["methods"], "dkd"]}):
        after = keys(soft_labels, **more)
        assert before.items() < after.items()


def test_a_methods_own_setting_recomputes_its_students_alone(soft_labels):
    changed = [
        {"name": "kd", "kd": {"temperature": 2.0}} if name == "kd" else name for name in SMALL["methods"]
    ]
    before, after = keys(soft_labels), keys(soft_labels, methods=changed)
    shared = before.items() & after.items()
    assert {label.partition(",")[0] for label, _ in set(before.items()) - shared} == {"method=ce0.1-kd0.9"}
    renamed = [{"name": "kd", "title": "hinton"} if name == "kd" else name for name in SMALL["methods"]]
    assert keys(soft_labels, methods=renamed) == before


def test_without_labels_there_is_the_control(small_dataset):
    changes = {"dataset": small_dataset, "labels": None, "methods": ["control", "multi_sample_dropout"]}
    made = run_task(DistillStudent, config(**changes, views={"padding": 1, "mix": "cutmix"}, batch_size=8))
    assert "teacher_accuracy" not in made.metrics
    assert "control_agreement" not in made.metrics
    assert "It had no teacher." in made.document("card")["text"]


def test_estimates_its_disk(students, soft_labels):
    made = config()
    estimate = DistillStudent.shards(made, students.facts)[0].disk_bytes
    written = sum(value.nbytes for value in students.shards[0].tensors("weights").values())
    assert written <= estimate < written + 10_000


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"methods": ["kd", "kd"]}, "two are called 'kd'; give one of them a `title`"),
        ({"methods": ["kd", {"name": "kd", "title": "two"}]}, "'kd' and 'two' are the same; leave one out"),
        ({"methods": []}, "methods: found none"),
        ({"published": "dkd"}, "found 'dkd'; expected one of control, kd, kd_plus, dhkd"),
        ({"views": "crop_flip"}, "the labels bring the views"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(wrong, message):
    with pytest.raises(ValidationError, match=message):
        StudentConfig.model_validate({**config().model_dump(), **config(**wrong).model_dump()})


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"features": 0}, "method kd_plus: nd needs the teacher's features"),
        (
            {"labels": {"precision": "top_k", "k": 3}},
            "method dhkd: dhkd compares logits, but labels of precision",
        ),
        ({"data_digest": "other"}, "soft labels: data_digest is other"),
    ],
)
def test_labels_that_do_not_serve_are_refused_before_work_starts(soft_labels, facts, message):
    with pytest.raises(ValueError, match=message):
        DistillStudent.describe(config(), {"labels": {**soft_labels.facts, **facts}})


def test_mixed_views_have_no_class_means(soft_labels):
    mixed = {**soft_labels.facts, "views": {**soft_labels.facts["views"], "mix": "cutmix"}}
    with pytest.raises(ValueError, match="method kd_plus: nd needs the mean features of each class"):
        DistillStudent.describe(config(), {"labels": mixed})


def test_a_method_that_needs_a_teacher_says_so():
    with pytest.raises(ValueError, match="method kd: kd needs a teacher; set `labels`"):
        DistillStudent.describe(config(labels=None), {})


@pytest.mark.slow
def test_two_ranks_train_the_same_student_and_one_goes_on_from_two(soft_labels, tmp_path):
    """Batch norm sees half of a step on each rank, so the students are close and not equal."""
    one = config(methods=["kd"], repeats=1)
    together = run_gang(DistillStudent, one, {"labels": soft_labels}, ranks=2, folder=tmp_path / "two")
    alone = run_task(DistillStudent, one, {"labels": soft_labels})
    assert together.metrics["kd_accuracy"] == pytest.approx(alone.metrics["kd_accuracy"], abs=0.05)
    with pytest.raises(KilledError):
        run_gang(DistillStudent, one, {"labels": soft_labels}, ranks=2, folder=tmp_path / "cut", kill_after=2)
    resumed = run_gang(DistillStudent, one, {"labels": soft_labels}, ranks=1, folder=tmp_path / "cut")
    assert resumed.metrics["kd_accuracy"] == pytest.approx(alone.metrics["kd_accuracy"], abs=0.05)
    assert resumed.table("curves")["train_loss"][:2] == together.table("curves")["train_loss"][:2]


@pytest.mark.slow
def test_a_good_teacher_helps_a_small_student_of_digits():
    """With a wrong sign, temperature or reduction KD would be about as good as its control, or worse."""
    teacher = run_task(
        TrainTeacher,
        {
            "dataset": "digits",
            "classifier": "cifar_resnet8",
            "epochs": 6,
            "batch_size": 64,
            "views": {"padding": 1},
        },
    )
    views = {"dataset": "digits", "views": {"padding": 1}, "epochs": 4, "features": True}
    labels = run_task(SoftLabels, views, {"trained_teacher": teacher})
    small = {"student": {"name": "convnet", "width": 4, "depth": 1}, "optimisation": {"lr": 0.03}}
    found = taught(labels, **small, methods=["control", "kd", "kdpp"], epochs=6).metrics
    for method in ("kd", "kdpp"):
        assert found[f"{method}_gain"] > 0.005
        assert found[f"{method}_nll"] < 0.7 * found["control_nll"]
