import pytest
import torch

from tasks.dataset_distillation.import_trajectories import ImportTrajectories
from tasks.dataset_distillation.trajectories import flat_model
from tasks.dataset_distillation.trajectory_matching import TrajectoryMatching
from tests.tasks.harness import equal, run_task


def write_buffers(artifact, folder, per_file=1):
    """Writes trajectories as MTT's code does: experts, snapshots, tensors in the order of the parameters."""
    names = list(flat_model(artifact.facts, "cpu").shapes)
    loaded = [shard.tensors("weights") for shard in artifact.shards]
    epochs = range(artifact.facts["epochs"] + 1)
    experts = [[[one[name][epoch].clone() for name in names] for epoch in epochs] for one in loaded]
    for number, first in enumerate(range(0, len(experts), per_file)):
        torch.save(experts[first : first + per_file], folder / f"replay_buffer_{number}.pt")


@pytest.fixture
def config(experts_config, experts, tmp_path):
    write_buffers(experts, tmp_path)
    kept = {name: experts_config[name] for name in ("dataset", "network", "augment")}
    return {**kept, "path": str(tmp_path)}


def test_gives_back_the_trajectories_that_were_written(config, experts):
    found = run_task(ImportTrajectories, config)
    assert found.kind == experts.kind
    assert {**found.facts, "experts_per_file": None} == {**experts.facts, "experts_per_file": None}
    for one, other in zip(found.shards, experts.shards, strict=True):
        first, second = one.tensors("weights"), other.tensors("weights")
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)
        assert one.metrics["test_accuracy"] == other.metrics["test_accuracy"]


def test_matching_cannot_tell_it_from_the_original(config, experts):
    matching = {
        "iterations": 2,
        "student_steps": 2,
        "max_start_epoch": 2,
        "expert_epochs": 1,
        "pixel_lr": 1.0,
    }
    found = [
        run_task(TrajectoryMatching, matching, {"experts": one})
        for one in (run_task(ImportTrajectories, config), experts)
    ]
    assert equal(*found)


def test_several_experts_a_file_and_fewer_epochs(config, experts, tmp_path):
    (tmp_path / "replay_buffer_1.pt").unlink()
    write_buffers(experts, tmp_path, per_file=2)
    found = run_task(ImportTrajectories, {**config, "last_epoch": 2, "precision": "fp16"})
    assert (found.facts["epochs"], found.facts["experts"]) == (2, 2)
    for one, other in zip(found.shards, experts.shards, strict=True):
        expected = other.tensors("weights", rows=[0, 1, 2])
        assert all(
            torch.equal(value, expected[name].half()) for name, value in one.tensors("weights").items()
        )


def test_is_known_by_content_not_by_path(config, experts, tmp_path):
    elsewhere = tmp_path / "moved"
    elsewhere.mkdir()
    write_buffers(experts, elsewhere)
    here, moved = (ImportTrajectories.Config(**{**config, "path": str(p)}) for p in (tmp_path, elsewhere))
    assert here.path.content_digest() == moved.path.content_digest()
    (elsewhere / "replay_buffer_1.pt").rename(elsewhere / "replay_buffer_7.pt")
    assert here.path.content_digest() == moved.path.content_digest()
    (elsewhere / "replay_buffer_7.pt").unlink()
    assert here.path.content_digest() != moved.path.content_digest()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"network": {"name": "convnet", "width": 4, "depth": 1}},
            r"another network.*\(8, 1, 3, 3\).*\(4, 1, 3, 3\)",
        ),
        ({"last_epoch": 5}, "last_epoch: 5 asked for.*has 4"),
        ({"path": "nowhere"}, "does not exist"),
        ({"augment": "croq"}, "did you mean 'crop'"),
    ],
)
def test_wrong_settings_are_refused_before_work_starts(config, wrong, message):
    with pytest.raises((ValueError, OSError), match=message):
        ImportTrajectories.describe(ImportTrajectories.Config(**{**config, **wrong}), {})


def test_experts_of_different_lengths_need_last_epoch(config, tmp_path):
    expert = torch.load(tmp_path / "replay_buffer_1.pt")[0]
    torch.save([expert[:3]], tmp_path / "replay_buffer_1.pt")
    with pytest.raises(ValueError, match="set last_epoch to 2 or less"):
        run_task(ImportTrajectories, config)
    assert run_task(ImportTrajectories, {**config, "last_epoch": 2}).facts["epochs"] == 2


def test_weights_that_are_not_finite_are_refused(config, tmp_path):
    expert = torch.load(tmp_path / "replay_buffer_1.pt")[0]
    expert[2][0].view(-1)[0] = torch.nan
    torch.save([expert], tmp_path / "replay_buffer_1.pt")
    with pytest.raises(ValueError, match="expert 1 holds weights not finite"):
        run_task(ImportTrajectories, config)
