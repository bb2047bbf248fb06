"""Every file in examples/ runs through the command line, the large ones scaled down by overrides."""

import time
from pathlib import Path

import pytest
from engine import Bench, digests, end, gone, working_children
from examples_small import SMALL

from tasks.data import Dataset

ROOT = Path(__file__).parent.parent


def available(name: str) -> bool:
    """Whether a named dataset's files are on this machine."""
    try:
        Dataset(name=name).content_digest()
    except (OSError, ValueError):
        return False
    return True


def test_every_example_is_listed():
    assert sorted(path.name for path in (ROOT / "examples").glob("*.yaml")) == sorted(SMALL)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_example_runs(tmp_path, name):
    if name == "fashion_mnist.yaml" and not available("fashion_mnist"):
        pytest.skip("Fashion-MNIST is not on this machine and cannot be downloaded")
    bench = Bench(tmp_path)
    answer = bench.limbeck("run", str(ROOT / "examples" / name), *SMALL[name], "--json").json
    assert answer["state"] == "done"
    assert all(stage["digest"] for stage in answer["stages"].values())


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_demo_killed_twice_ends_with_the_same_digests(tmp_path):
    """SIGKILL while experts are trained, and again while the set is distilled; then run to the end."""
    argv = ["run", str(ROOT / "examples/digits.yaml"), *SMALL["digits.yaml"], "experts.epochs=8", "--json"]
    argv += ["distilled.iterations=60", "distilled.progress_s=0", "experts.progress_s=0"]
    undisturbed = Bench(tmp_path / "undisturbed").limbeck(*argv).json
    bench = Bench(tmp_path / "killed")
    kill_when(bench, argv, lambda: list(bench.store.glob("shards/*/*.json")))
    kill_when(bench, argv, lambda: list(bench.store.glob("artifacts/*/*.json")) and progress(bench))
    answer = bench.limbeck(*argv).json
    assert digests(answer) == digests(undisturbed)
    assert answer["stages"]["experts"]["state"] == "cached"
    assert bench.limbeck("artifacts", "verify", "--json").json["ok"]


def progress(bench):
    return list(bench.store.glob("work/*/*/progress"))


def kill_when(bench, argv, happened):
    """Runs a command until something has happened in its store, and kills its driver there."""
    process = bench.start(*argv)
    try:
        deadline = time.monotonic() + 120
        while not happened():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        children = working_children(process)
        process.kill()
        process.wait(timeout=30)
    finally:
        end(process)
    assert gone(children)
