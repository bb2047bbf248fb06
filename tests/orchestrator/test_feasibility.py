"""How many workers fit, and which demands cannot be met."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.experiment import Resources
from orchestrator.feasibility import Node, Offer, merged
from orchestrator.task import Memory, Needs

OFFER = Offer(where="a machine", cpus=4, gpus=1, memory_gb=8, disk_gb=10)
sizes = st.floats(0.1, 16)


@given(sizes, st.floats(0, 4), sizes)
def test_what_fits_fits_and_one_more_does_not(cpus, gpus, memory):
    needs = Needs(cpus=cpus, gpus=gpus, memory_gb=memory)
    fit = OFFER.fits(needs)
    asked = [(cpus, OFFER.cpus), (gpus, OFFER.gpus), (memory, OFFER.memory_gb)]
    assert all(fit * each <= offered + 1e-6 for each, offered in asked)
    assert any((fit + 1) * each > offered for each, offered in asked)


@pytest.mark.parametrize(
    ("needs", "fit"), [(Needs(), 4), (Needs(memory_gb=5), 1), (Needs(gpus=0.25), 4), (Needs(gpus=2), 0)]
)
def test_fits(needs, fit):
    assert OFFER.fits(needs) == fit


def test_what_a_stage_asks_wins_over_what_the_task_needs():
    asked = merged(Needs(cpus=1, memory_gb=2), Resources(gpus=0.5, threads=2))
    assert asked == Needs(cpus=1, gpus=0.5, memory_gb=2, threads=2)


MIXED = Offer.of("a cluster", [Node(8, 0, 16), Node(4, 2, 32), Node(0, 0, 4)])


def test_a_cluster_has_what_its_nodes_have_together():
    assert (MIXED.cpus, MIXED.gpus, MIXED.memory_gb, MIXED.cores) == (12, 2, 52, 8)


@pytest.mark.parametrize(
    ("needs", "fit"),
    [
        (Needs(), 12),
        (Needs(cpus=5), 1),
        (Needs(cpus=3, ranks=3), 1),
        (Needs(cpus=6, ranks=2), 0),
        (Needs(cpus=1, gpus=0.5), 4),
        (Needs(cpus=0.5, gpus=0.25, memory_gb=4), 8),
        (Needs(cpus=8, gpus=1), 0),
    ],
)
def test_a_worker_has_to_fit_on_one_node(needs, fit):
    assert MIXED.fits(needs) == fit


def test_work_for_cpus_leaves_the_gpus_alone():
    left = MIXED.without(Needs(cpus=2), 4)
    assert left.fits(Needs(cpus=1, gpus=0.5)) == 4
    assert left.fits(Needs(cpus=1)) == 4


nodes = st.builds(Node, st.integers(0, 16), st.integers(0, 4), st.integers(1, 64))


@given(st.lists(nodes, min_size=1, max_size=5), st.sampled_from([0, 0.25, 0.5, 1, 2]), st.integers(1, 4))
def test_what_is_taken_is_gone(machines, gpus, ranks):
    needs, offer = Needs(cpus=1, gpus=gpus, memory_gb=2, ranks=ranks), Offer.of("a cluster", machines)
    fit = offer.fits(needs)
    left = offer.without(needs, fit)
    assert left.fits(needs) == 0
    assert all(node.cpus >= 0 and node.gpus >= 0 and node.memory_gb >= 0 for node in left.nodes)
    assert left.cpus == offer.cpus - fit * ranks


@pytest.mark.parametrize(
    ("memory", "gpus", "holds"),
    [
        (Memory(8), 1, 4),
        (Memory(33), 1, 0),
        (Memory(8, gpu_gb=24), 1, 4),
        (Memory(8, gpu_gb=25), 1, 0),
        (Memory(8, gpu_gb=13), 0.5, 0),
        (Memory(8, gpu_gb=25), 2, 0),
        (Memory(8, gpu_gb=25), 0, 4),
    ],
)
def test_a_gpu_holds_what_it_has(memory, gpus, holds):
    assert Node(8, 2, 32, gpu_memory_gb=24).holds(memory, Needs(gpus=gpus)) == holds


def test_a_gpu_of_unknown_size_holds_all():
    assert Node(8, 2, 32).holds(Memory(8, gpu_gb=1000), Needs(gpus=1)) == 4


def test_the_share_of_a_machine_is_an_equal_part():
    share = OFFER.share("a part", 2)
    assert (share.where, share.cpus, share.gpus, share.memory_gb, share.disk_gb) == ("a part", 2, 0.5, 4, 10)
    assert share.nodes == ()


@pytest.mark.parametrize(
    ("count", "nodes"),
    [
        (1, (Node(4, 2, 32), Node(8, 0, 16))),
        (2, (Node(8, 0, 16),)),
        (3, (Node(4, 0, 8),)),
        (4, (Node(4, 0, 8),)),
    ],
)
def test_the_share_of_a_cluster_is_whole_nodes_while_there_are_enough(count, nodes):
    assert MIXED.share("a part", count).nodes == nodes


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 12))
def test_all_shares_fit_a_cluster_at_once(cores, count):
    cluster = Offer.of("a cluster", [Node(each, 0, 1) for each in cores])
    left, needs = cluster, Needs(cpus=1, memory_gb=1e-3)
    for _ in range(count):
        each = cluster.share("a part", count).fits(needs)
        assert left.fits(needs) >= each
        left = left.without(needs, each)
