"""Four nodes, each with an address of its own, and what befalls nodes: the bytes are those of an undisturbed run."""

import pytest
import raynodes
from engine import Bench, commits, digests, until
from launched import Launched

pytestmark = [
    pytest.mark.faults,
    pytest.mark.timeout(900),
    pytest.mark.skipif(raynodes.reason() is not None, reason=str(raynodes.reason())),
]
WALKS = ("walk.walks=7", "walk.steps=6")
AT_GATES = (*WALKS, "walk.trouble=gate", "walk.times=9")
"""Walks named by `walk.at` wait, each time that they are begun, until the test lets them go on."""
FITS = """\
name: fits
stages:
  fit: {task: toy_fit, steps: 12, folder: FOLDER, resources: {ranks: 2}}
"""


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    """A head, where drivers run, and three workers with one core each."""
    with raynodes.RayNodes(tmp_path_factory.mktemp("nodes")) as nodes:
        nodes.head()
        nodes.add(1, 2, 3)
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
    assert before
    assert before.items() <= commits(bench).items(), "a finished shard was committed again"
    assert digests(bench.run(*WALKS)) == undisturbed  # all is cached: it is read, nothing is computed
    assert bench.limbeck("artifacts", "verify", "--json").json["problems"] == []
    return said


def test_the_ranks_of_a_gang_are_on_two_nodes(nodes, bench, tmp_path):
    """What they make is what two ranks on one node make."""
    bench.experiment.write_text(FITS.replace("FOLDER", str(bench.marks_folder)))
    job = bench.launch()
    said = bench.followed(job)
    assert bench.phase(job) == "done", said
    assert len({mark.name.split("-")[1] for mark in bench.marks_folder.glob("host-*")}) == 2
    assert digests(bench.run()) == digests(Bench(tmp_path / "one", FITS).run())


def test_a_node_is_killed_and_another_comes(nodes, bench, undisturbed):
    job = bench.launch(*AT_GATES, "walk.at=[3, 4, 5, 6]")
    until(lambda: bench.at_gate() == {"n1", "n2", "n3"})
    before = commits(bench)
    nodes.remove("n2")
    nodes.add(4)
    until(lambda: "n4" in bench.at_gate())
    bench.open_gates()
    said = ended_well(bench, job, undisturbed, before)
    assert "worker died" in said
    assert bench.marks("start") == 8, "only one shard, that of the killed node, is started twice"
    assert {"n1", "n3", "n4"} <= bench.hosts()  # n2 may have died before it had ended anything


def test_a_node_without_network_until_ray_gives_it_up(nodes, bench, undisturbed):
    """Its worker goes on computing and sees the store: what both make of one shard is one commit."""
    job = bench.launch(*AT_GATES, "walk.at=[3]")
    until(lambda: bench.at_gate() and bench.marks("end") == 6)
    before, [cut] = commits(bench), bench.at_gate()
    nodes.nodes[cut].cut()
    until(lambda: len(bench.at_gate()) == 2)
    bench.open_gates()
    until(lambda: bench.marks("end", 3) == 2)
    nodes.nodes[cut].mend()
    ended_well(bench, job, undisturbed, before)
    assert bench.marks("start") == 8


def test_the_head_is_killed_and_comes_back(nodes, bench, undisturbed):
    """The job dies with it, and Ray ends its nodes. The same launch goes on from the store, on new nodes."""
    job = bench.launch(*AT_GATES, "walk.at=[3, 4, 5, 6]")
    until(lambda: len(bench.at_gate()) >= 2)
    before, old = commits(bench), [node for name, node in nodes.nodes.items() if name != "head"]
    nodes.remove("head")
    nodes.head()
    assert bench.phase(job) == "failed"
    assert "launch it again, and it goes on" in bench.limbeck("status", job, "--json").json["message"]
    nodes.add(5, 6)
    ended_well(bench, bench.launch(*WALKS), undisturbed, before)
    assert {"n5", "n6"} & bench.hosts()
    assert bench.marks("start") <= 7 + len(old), "only what the old nodes had under way is started twice"
    for node in old:
        node.process.wait(120)
        assert node.pids == []
