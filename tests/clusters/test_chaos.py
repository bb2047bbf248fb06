"""Four nodes, each with an address of its own, and what befalls nodes: the bytes are those of an undisturbed run."""

import time

import pytest
import raynodes
from engine import Bench, commits, digests
from launched import STARTED_S, Launched

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(raynodes.reason() is not None, reason=str(raynodes.reason())),
]
WALKS = ("walk.walks=24", "walk.steps=6")
SLOWLY = (*WALKS, "walk.pause_s=1")
"""Six seconds a walk."""


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    """A head, where drivers run, and three workers with one core each."""
    with raynodes.RayNodes(tmp_path_factory.mktemp("nodes")) as nodes:
        nodes.head()
        for number in (1, 2, 3):
            nodes.add(number)
        yield nodes


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Digests of the plain run on this machine."""
    return digests(Bench(tmp_path_factory.mktemp("plain")).run(*WALKS))


@pytest.fixture
def bench(tmp_path, nodes, monkeypatch):
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "home"))
    return Launched(tmp_path, nodes)


def ended_well(bench, job, undisturbed, before):
    """The same bytes, and what was committed before the trouble stands as it was."""
    said = bench.followed(job, timeout=600)
    assert bench.phase(job) == "done", said
    assert before.items() <= commits(bench).items(), "a finished shard was committed again"
    assert digests(bench.run(*SLOWLY)) == undisturbed  # all is cached: it is read, nothing is computed
    assert bench.limbeck("artifacts", "verify", "--json").json["problems"] == []
    return said


def test_a_node_is_killed_and_another_comes(nodes, bench, undisturbed):
    job = bench.launch(*SLOWLY)
    bench.wait_for_marks("start", 5, timeout=STARTED_S)
    before = commits(bench)
    nodes.remove("n2")
    nodes.add(4)
    said = ended_well(bench, job, undisturbed, before)
    assert "worker died" in said
    assert bench.marks("start") <= 25, "only one shard, that of the killed node, may be started twice"
    assert {"n1", "n3", "n4"} <= bench.hosts()  # n2 may have died before it had ended anything


def test_a_node_without_network_for_30_seconds(nodes, bench, undisturbed):
    """Its worker goes on computing and sees the store: what both make of one shard is one commit."""
    job = bench.launch(*SLOWLY)
    bench.wait_for_marks("start", 4, timeout=STARTED_S)
    before = commits(bench)
    nodes.nodes["n1"].cut()
    time.sleep(30)
    nodes.nodes["n1"].mend()
    ended_well(bench, job, undisturbed, before)
    assert bench.marks("start") in (24, 25), "at most the shard of the node that was cut off is started twice"
