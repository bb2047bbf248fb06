"""What a plan says of gangs, before anything starts."""

from dataclasses import replace

import pytest

from orchestrator.errors import UserError
from orchestrator.experiment import load_experiment
from orchestrator.feasibility import Node, Offer, problems
from orchestrator.plan import make_plan
from orchestrator.store import Store
from orchestrator.task import Memory

OFFER = Offer(where="this machine", cpus=4, gpus=2, memory_gb=8, disk_gb=None)


@pytest.fixture
def planned(tmp_path):
    def plan(stage, offer=OFFER):
        file = tmp_path / "gangs.yaml"
        file.write_text(f"name: gangs\nstages:\n  fit: {stage}\n")
        return make_plan(load_experiment(file), Store.open(str(tmp_path / "store")), offer).stages[0]

    return plan


def test_ranks_are_in_no_key(planned):
    alone, gang = planned("{task: toy_fit}"), planned("{task: toy_fit, resources: {ranks: 3}}")
    assert (gang.needs.ranks, gang.row()["needs"]["ranks"]) == (3, 3)
    assert (gang.key, gang.shard_keys) == (alone.key, alone.shard_keys)


def test_as_many_gangs_as_fit(planned):
    assert planned("{task: toy_fit, fits: 9, resources: {ranks: 2}}").workers == 2
    assert planned("{task: toy_fit, fits: 9, resources: {ranks: 2, cpus: 2}}").workers == 1


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        (
            "ranks: 5",
            "stages.fit.resources.cpus: a gang asks 5 x 1 = 5, this machine offers 4; "
            "ask less, or run where there is more",
        ),
        (
            "ranks: 2, memory_gb: 4.5",
            "stages.fit.resources.memory_gb: a gang asks 2 x 4.5 = 9, this machine offers 8; "
            "ask less, or run where there is more",
        ),
        (
            "ranks: 4, gpus: 1",
            "stages.fit.resources.gpus: a gang asks 4 x 1 = 4, this machine offers 2; "
            "ask less, or run where there is more",
        ),
    ],
)
def test_what_cannot_be_had_at_once_is_a_problem(planned, asked, problem):
    stage = planned(f"{{task: toy_fit, resources: {{{asked}}}}}")
    assert problems([stage], OFFER) == [problem]
    assert problems([replace(stage, needs=replace(stage.needs, ranks=1))], OFFER) == []


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (
            "{task: toy_walk, resources: {ranks: 2}}",
            "stages.fit.resources.ranks: found 2, but toy_walk computes a shard in one process; leave it out, "
            "and give `workers` for shards side by side",
        ),
        (
            "{task: toy_fit, resources: {ranks: 2, gpus: 0.5}}",
            "stages.fit.resources.gpus: found 0.5, expected a whole number: ranks of a gang cannot share a GPU",
        ),
    ],
)
def test_what_can_be_no_gang_is_refused(planned, stage, message):
    with pytest.raises(UserError) as refused:
        planned(stage)
    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("asked", "who"),
    [
        ("cpus: 5", "a worker asks 5 cpus, 0 gpus, 0.2 GB on one node"),
        ("ranks: 3, cpus: 2.5", "a gang asks 3 times 2.5 cpus, 0 gpus, 0.2 GB on one node"),
    ],
)
def test_what_no_node_has_is_a_problem(planned, asked, who):
    cluster = Offer.of("a cluster", [Node(4, 0, 8), Node(4, 1, 8)])
    stage = planned(f"{{task: toy_fit, resources: {{{asked}}}}}", cluster)
    room = cluster.machines[0].slots(stage.needs) * 2
    assert problems([stage], cluster) == [
        f"stages.fit.resources: {who}, the nodes of a cluster have room for {room}; the largest has 4 cpus, 1 gpus, "
        "8 GB; ask less, or run where there is more"
    ]


@pytest.mark.parametrize(
    ("asked", "memory", "problem"),
    [
        (
            "ranks: 2",
            Memory(5.0, parts={"weights": 3.0, "teacher": 2.0}, advice="use less"),
            "stages.fit: not enough memory: each of 2 ranks takes about 5 GB (weights 3, teacher 2), this machine "
            "offers 8 GB on a machine; use less, or give resources.memory_gb if you know better",
        ),
        (
            "gpus: 1",
            Memory(5.0, gpu_gb=30.0, parts={"weights": 30.0}),
            "stages.fit: not enough memory: a worker takes about 5 GB and 30 GB on a GPU (weights 30), this machine "
            "offers 8 GB on a machine and 24 GB on a GPU; run where there is more, or give resources.memory_gb if "
            "you know better",
        ),
    ],
)
def test_what_no_machine_can_hold_is_a_problem(planned, asked, memory, problem):
    offer = replace(OFFER, gpu_memory_gb=24.0)
    stage = replace(planned(f"{{task: toy_fit, resources: {{{asked}}}}}"), memory=memory)
    assert problems([stage], offer) == [problem]
    assert problems([stage], replace(offer, memory_gb=16, gpu_memory_gb=30.0)) == []
    assert problems([replace(stage, memory=None)], offer) == []
