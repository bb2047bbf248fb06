import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.task import derive_seed
from tasks.data import Dataset, Transform
from tasks.dataset_distillation.expert_trajectories import ExpertTrajectories
from tasks.dataset_distillation.trajectories import experts_of, flat_model, read_snapshots
from tasks.dataset_distillation.trajectory_matching import TrajectoryMatching
from tests.tasks.harness import KilledError, equal, run_task

AST = {
    "momentum": 0.9,
    "weight_decay": 1e-3,
    "lr": 0.01,
    "lr_decay": 0.6,
    "loss_scale": True,
    "gradient_penalty": 1.0,
    "batch_size": 512,
}


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first) and first.keys() == second.keys()


def test_makes_one_shard_an_expert_with_every_snapshot(experts):
    facts = experts.facts
    assert (facts["epochs"], facts["experts"], facts["classes"], facts["shape"]) == (4, 2, 10, [1, 8, 8])
    assert facts["network"]["width"] == 8
    assert experts.kind == "trajectories"
    assert [dict(shard.identity) for shard in experts.shards] == [{"expert": 0}, {"expert": 1}]
    shapes = flat_model(facts, "cpu").shapes
    for shard in experts.shards:
        assert {name: tuple(value.shape) for name, value in shard.tensors("weights").items()} == {
            name: (5, *shape) for name, shape in shapes.items()
        }
        assert [step for step, metrics in shard.curves if "train_loss" in metrics] == [1, 2, 3, 4]


def test_starts_at_the_networks_own_initialisation(experts):
    seed = derive_seed(0, "ExpertTrajectories", {"expert": 1}, "init")
    model = flat_model(experts.facts, "cpu", seed)
    assert torch.equal(read_snapshots(model, experts.shards[1], [0])[0], model.initial())


def test_learns(experts):
    first, last = (experts.shards[0].curves[i][1]["train_loss"] for i in (0, 3))
    assert last < 0.9 * first
    scores = [shard.metrics["test_accuracy"] for shard in experts.shards]
    assert experts.metrics["test_accuracy"] == pytest.approx(sum(scores) / 2)
    assert experts.metrics["test_accuracy_se"] == pytest.approx(abs(scores[0] - scores[1]) / 2)
    assert min(scores) > 0.4


def test_an_expert_does_not_depend_on_its_siblings_or_on_when_it_stops(experts, experts_config):
    alone = run_task(ExpertTrajectories, {**experts_config, "experts": 1, "last_epoch": 2})
    assert alone.facts["epochs"] == 2
    rows = experts.shards[0].tensors("weights", rows=[0, 1, 2])
    assert same(alone.shards[0].tensors("weights"), rows)


def test_experts_differ_with_the_seed_and_the_number(experts, experts_config):
    other = run_task(ExpertTrajectories, {**experts_config, "experts": 1, "epochs": 1}, seed=1)
    first, second = (shard.tensors("weights", rows=[0]) for shard in experts.shards)
    assert not same(first, second)
    assert not same(first, other.shards[0].tensors("weights", rows=[0]))


@settings(deadline=None, max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 8))
def test_killed_and_resumed_is_undisturbed(experts, experts_config, kill_after):
    progress = {}
    if kill_after <= 4:
        with pytest.raises(KilledError):
            run_task(ExpertTrajectories, experts_config, progress=progress, kill_after=kill_after)
    again = run_task(ExpertTrajectories, experts_config, progress=progress)
    assert equal(again, experts)


def test_the_smooth_expert_resumes_beyond_the_drop_of_its_rate(experts_config):
    config = {**experts_config, **AST, "experts": 1, "epochs": 6, "precision": "fp16"}
    undisturbed, progress = run_task(ExpertTrajectories, config), {}
    for kill_after in (2, 3):
        with pytest.raises(KilledError):
            run_task(ExpertTrajectories, config, progress=progress, kill_after=kill_after)
    assert equal(run_task(ExpertTrajectories, config, progress=progress), undisturbed)
    assert {value.dtype for value in undisturbed.shards[0].tensors("weights").values()} == {torch.float16}


@pytest.mark.parametrize(
    "switch",
    [
        {"momentum": 0.5},
        {"weight_decay": 0.1},
        {"loss_scale": True},
        {"gradient_penalty": 0.1},
        {"augment": ""},
        {"transform": "zca"},
    ],
)
def test_every_switch_acts(experts, experts_config, switch):
    found = run_task(ExpertTrajectories, {**experts_config, **switch, "experts": 1, "last_epoch": 1})
    assert same(found.shards[0].tensors("weights", [0]), experts.shards[0].tensors("weights", [0]))
    assert not same(found.shards[0].tensors("weights", [1]), experts.shards[0].tensors("weights", [1]))


def test_the_rate_drops_and_momentum_restarts_late_in_the_schedule(experts_config):
    """With six epochs the drop comes before the last one and leaves those before as they were."""
    config = {**experts_config, "experts": 1, "epochs": 6, "momentum": 0.9, "lr": 0.01}
    paths = {
        decay: run_task(ExpertTrajectories, {**config, "lr_decay": decay}).shards[0].tensors("weights")
        for decay in (1.0, 1 - 1e-9, 1e-30)
    }
    for name, constant in paths[1.0].items():
        assert all(torch.equal(constant[:6], path[name][:6]) for path in paths.values())
        assert torch.equal(paths[1e-30][name][6], paths[1e-30][name][5])
    restarted, constant = (paths[decay]["classifier.weight"][6] for decay in (1 - 1e-9, 1.0))
    assert float((restarted - constant).abs().max()) > 1e-3


def test_estimates_its_disk(experts, experts_config):
    config = ExpertTrajectories.Config(**experts_config)
    estimate = ExpertTrajectories.shards(config, experts.facts)[0].disk_bytes
    written = sum(value.nbytes for value in experts.shards[0].tensors("weights").values())
    assert estimate == written


def test_leaves_the_global_random_state_alone(experts_config):
    before = torch.get_rng_state()
    run_task(ExpertTrajectories, {**experts_config, "experts": 1, "epochs": 1})
    assert torch.equal(torch.get_rng_state(), before)


def test_a_diverging_expert_is_stopped_with_advice(experts_config):
    with pytest.raises(
        ValueError, match=r"expert 0: not finite after epoch \d, loss .*; lower lr \(1e\+30\)"
    ):
        run_task(ExpertTrajectories, {**experts_config, "lr": 1e30, "experts": 1})


@pytest.fixture(scope="module")
def stacked(experts_config):
    """Five of them, in stacks of two."""
    return run_task(ExpertTrajectories, {**experts_config, "experts": 5, "stack": 2})


@pytest.fixture(scope="module")
def one_by_one(experts_config):
    return run_task(ExpertTrajectories, {**experts_config, "experts": 5, "stack": 1})


def test_a_stack_is_a_shard_and_the_last_may_be_a_lone_expert(stacked):
    stacks = [{"first_expert": 0, "last_expert": 1}, {"first_expert": 2, "last_expert": 3}, {"expert": 4}]
    assert [dict(shard.identity) for shard in stacked.shards] == stacks
    assert list(stacked.shards[1].names) == ["weights_2.safetensors", "weights_3.safetensors"]


def test_experts_do_not_depend_on_their_stack(stacked, one_by_one, experts):
    model = flat_model(stacked.facts, "cpu")
    pairs = list(zip(experts_of(stacked.shards), experts_of(one_by_one.shards), strict=True))
    assert [dict(member.identity) for member, _ in pairs] == [{"expert": expert} for expert in range(5)]
    for member, alone in pairs:
        paths = [read_snapshots(model, expert, [4, 0, 1]) for expert in (member, alone)]
        torch.testing.assert_close(*paths, rtol=0, atol=1e-5)
        assert member.metrics == pytest.approx(dict(alone.metrics), abs=0.01)
    assert stacked.metrics == pytest.approx(dict(one_by_one.metrics), abs=0.005)
    assert same(one_by_one.shards[1].tensors("weights"), experts.shards[1].tensors("weights"))


def test_a_stack_tells_of_each_expert(stacked, one_by_one):
    curves = stacked.shards[0].curves
    for expert in range(2):
        alone = one_by_one.shards[expert].curves
        found = [
            (step, {name.removesuffix(f"/expert={expert}"): value for name, value in metrics.items()})
            for step, metrics in curves
        ]
        for (step, metrics), (expected_step, expected) in zip(found, alone, strict=True):
            assert step == expected_step
            assert {name: metrics[name] for name in expected} == pytest.approx(expected, abs=0.01)


def test_matching_does_not_depend_on_the_stack(stacked, one_by_one):
    config = {
        "images_per_class": 1,
        "iterations": 4,
        "student_steps": 2,
        "expert_epochs": 1,
        "max_start_epoch": 3,
    }
    found, expected = (
        run_task(TrajectoryMatching, config, {"experts": experts}).shards[0].tensors("synthetic")["images"]
        for experts in (stacked, one_by_one)
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-2)


@pytest.mark.parametrize("kill_after", [1, 3])
def test_a_stack_killed_and_resumed_is_undisturbed(stacked, experts_config, kill_after):
    config, progress = {**experts_config, "experts": 5, "stack": 2}, {}
    with pytest.raises(KilledError):
        run_task(ExpertTrajectories, config, progress=progress, kill_after=kill_after)
    assert equal(run_task(ExpertTrajectories, config, progress=progress), stacked)


def test_more_experts_keep_the_stacks_there_are(stacked, experts_config):
    config = ExpertTrajectories.Config(**{**experts_config, "experts": 8, "stack": 2})
    shards = ExpertTrajectories.shards(config, stacked.facts)
    assert [shard.identity for shard in shards[:2]] == [shard.identity for shard in stacked.shards[:2]]
    written = sum(value.nbytes for value in experts_of(stacked.shards)[0].tensors("weights").values())
    assert [shard.disk_bytes for shard in shards] == [2 * written] * 4


def test_a_stack_stops_with_the_expert_that_diverges(experts_config):
    config = {**experts_config, "lr": 1e30, "experts": 2, "stack": 2}
    with pytest.raises(ValueError, match=r"expert \d: not finite after epoch 1, loss .*; lower lr"):
        run_task(ExpertTrajectories, config)


def test_the_stack_is_left_to_measurement_where_there_is_a_choice(experts, experts_config):
    config = ExpertTrajectories.Config(**{**experts_config, "experts": 4})
    offered = ExpertTrajectories.choices(config, experts.facts, "cpu")
    assert list(offered.settings) == [{"stack": 1}, {"stack": 2}]
    assert offered.depends_on["image"] == [1, 8, 8]
    assert ExpertTrajectories.pace(config, experts.facts, "cpu") > 0
    for settled in ({"stack": 2}, {"experts": 3}):
        config = ExpertTrajectories.Config(**{**experts_config, "experts": 4, **settled})
        assert ExpertTrajectories.choices(config, experts.facts, "cpu") is None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"experts": 0}, "greater than 0"),
        ({"stack": 0}, "greater than 0"),
        ({"epochs": 0}, "greater than 0"),
        ({"last_epoch": 9}, "last_epoch 9 lies beyond epochs 4"),
        ({"augment": "crop_rotat"}, "did you mean 'rotate'"),
        ({"lr": float("nan")}, "finite"),
        ({"network": {"name": "convnet", "depth": 9}}, "depth"),
    ],
)
def test_wrong_settings_are_refused_before_work_starts(experts_config, wrong, message):
    with pytest.raises(ValueError, match=message):
        ExpertTrajectories.describe(ExpertTrajectories.Config(**{**experts_config, **wrong}), {})


STRONG = {
    "dataset": "digits",
    "network": {"name": "convnet", "width": 16, "depth": 2},
    "experts": 2,
    "epochs": 20,
    "batch_size": 64,
    "lr": 0.01,
    "lr_decay": 0.6,
    "momentum": 0.9,
    "weight_decay": 1e-3,
    "augment": "crop_scale_rotate",
}


@pytest.mark.slow
def test_the_loss_scale_makes_early_epochs_move_less_at_equal_accuracy():
    plain, scaled = (run_task(ExpertTrajectories, {**STRONG, "loss_scale": on}) for on in (False, True))
    assert early_movement(scaled) < 0.9 * early_movement(plain)
    assert abs(scaled.metrics["test_accuracy"] - plain.metrics["test_accuracy"]) < 0.01


@pytest.mark.slow
def test_the_penalty_brings_the_slope_at_each_pixel_towards_one():
    short = {**STRONG, "experts": 1, "last_epoch": 8}
    plain, penalised = (run_task(ExpertTrajectories, {**short, "gradient_penalty": w}) for w in (0.0, 1.0))
    assert mean_slope(plain) < 0.3
    assert 0.7 < mean_slope(penalised) < 1.1


def early_movement(artifact):
    """Mean length of the first ten epochs' steps in weight space."""
    model = flat_model(artifact.facts, "cpu")
    paths = [read_snapshots(model, shard, range(11)) for shard in artifact.shards]
    return float(torch.stack([path.diff(dim=0).norm(dim=1).mean() for path in paths]).mean())


def mean_slope(artifact):
    """Mean norm over channels of the gradient of the summed logits by each pixel, at the last snapshot."""
    model = flat_model(artifact.facts, "cpu")
    weights = read_snapshots(model, artifact.shards[0], [artifact.facts["epochs"]])[0]
    transform = Transform.from_tensors(artifact.tensors("transform"))
    images = transform.apply(Dataset(name="digits").load().train.images[:256]).requires_grad_()
    (slope,) = torch.autograd.grad(model(weights, images).sum(), images)
    return float(slope.norm(dim=1).mean())
