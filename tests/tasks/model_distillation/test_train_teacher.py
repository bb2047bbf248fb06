import pytest
import torch
from torch.nn import functional

from orchestrator.task import derive_seed
from tasks.data import Dataset
from tasks.model_distillation.teachers import load_trained
from tasks.model_distillation.train_teacher import Batch, TrainTeacher, accuracy_of, true_loss
from tasks.nets import Classifier, build_classifier
from tests.tasks.harness import KilledError, equal, run_task


def test_makes_one_shard_a_classifier(trained):
    assert trained.kind == "classifier"
    assert [dict(shard.identity) for shard in trained.shards] == [{"repeat": 0}, {"repeat": 1}]
    accuracies = [shard.metrics["test_accuracy"] for shard in trained.shards]
    assert min(accuracies) > 0.85
    assert trained.metrics["test_accuracy"] == pytest.approx(sum(accuracies) / 2)
    losses = [metrics["train_loss"] for _, metrics in trained.shards[0].curves if "train_loss" in metrics]
    assert losses == sorted(losses, reverse=True)
    first, second = (shard.tensors("weights")["conv1.weight"] for shard in trained.shards)
    assert not torch.equal(first, second)


def test_the_weights_are_the_classifier_that_was_tested(trained):
    for member, shard in enumerate(trained.shards):
        model = load_trained(trained, member, "cpu")
        assert accuracy_of(model, Dataset(name="digits").load().test) == shard.metrics["test_accuracy"]


@pytest.mark.parametrize("kill_after", [1, 2])
def test_killed_and_resumed_is_undisturbed(trained, teacher_config, kill_after):
    progress = {}
    with pytest.raises(KilledError):
        run_task(TrainTeacher, teacher_config, progress=progress, kill_after=kill_after)
    assert equal(run_task(TrainTeacher, teacher_config, progress=progress), trained)


def test_starts_at_its_own_initialisation(teacher_config):
    config = {**teacher_config, "repeats": 1, "epochs": 1, "optimisation": {"lr": 1e-30}}
    found = run_task(TrainTeacher, config).shards[0].tensors("weights")["linear.weight"]
    seed = derive_seed(0, "TrainTeacher", {"repeat": 0}, "init")
    fresh = build_classifier(Classifier.model_validate(teacher_config["classifier"]), (1, 8, 8), 10, seed)
    assert torch.equal(found, fresh.linear.weight)


@pytest.mark.parametrize(
    "switch",
    [
        {"label_smoothing": 0.3},
        {"views": "none"},
        {"views": {"mix": "mixup"}},
        {"batch_size": 100},
        {"optimisation": {"optimizer": "adamw", "lr": 0.001}},
    ],
)
def test_every_switch_acts(trained, teacher_config, switch):
    found = run_task(TrainTeacher, {**teacher_config, **switch, "repeats": 1, "epochs": 1})
    assert not torch.equal(
        found.shards[0].tensors("weights")["linear.weight"],
        trained.shards[0].tensors("weights")["linear.weight"],
    )


def test_the_loss_of_a_mix_is_that_of_mixed_labels():
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    targets, others = torch.tensor([0, 1, 2, 0]), torch.tensor([1, 1, 0, 2])
    shares = torch.tensor([0.2, 0.5, 1.0, 0.0])
    mixed = shares[:, None] * functional.one_hot(targets, 3) + (1 - shares)[:, None] * functional.one_hot(
        others, 3
    )
    found = true_loss(logits, Batch(logits, targets, others, shares), 0.1)
    assert torch.allclose(found, functional.cross_entropy(logits, mixed, label_smoothing=0.1))


def test_estimates_its_disk(trained, teacher_config):
    estimate = TrainTeacher.shards(TrainTeacher.Config(**teacher_config), trained.facts)[0].disk_bytes
    written = sum(value.nbytes for value in trained.shards[0].tensors("weights").values())
    assert 0.9 * written < estimate <= written


def test_leaves_the_global_random_state_alone(teacher_config):
    before = torch.get_rng_state()
    run_task(TrainTeacher, {**teacher_config, "repeats": 1, "epochs": 1})
    assert torch.equal(torch.get_rng_state(), before)


def test_a_diverging_teacher_is_stopped_with_advice(teacher_config):
    config = {**teacher_config, "classifier": "mlp", "repeats": 1, "optimisation": {"lr": 1e38}}
    with pytest.raises(ValueError, match=r"the loss is (nan|inf) after epoch \d; lower optimisation.lr"):
        run_task(TrainTeacher, config)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batch_size": 1}, "greater than or equal to 2"),
        ({"label_smoothing": 1.0}, "less than 1"),
        ({"classifier": {"name": "convnet", "depth": 4}}, "expected 16x16 at least"),
    ],
)
def test_wrong_settings_are_refused_before_work_starts(teacher_config, wrong, message):
    with pytest.raises(ValueError, match=message):
        TrainTeacher.describe(TrainTeacher.Config(**{**teacher_config, **wrong}), {})
