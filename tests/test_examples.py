"""Every file in examples/ runs through the command line, the large ones scaled down by overrides."""

from pathlib import Path

import pytest
from engine import Bench, digests, kill_when, progress
from examples_small import NEEDS, SMALL

from tasks.data import Dataset
from tasks.data.files import data_folder

ROOT = Path(__file__).parent.parent


def available(name: str) -> bool:
    """Whether a named dataset, or a folder of tables, is on this machine."""
    if name == "tabular_binary":
        return (data_folder(name, None) / "sonar.parquet").is_file()
    try:
        Dataset(name=name).content_digest()
    except (OSError, ValueError):
        return False
    return True


def test_every_example_is_listed():
    folder = ROOT / "examples"
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*.yaml")) == sorted(SMALL)


def searches(name: str) -> bool:
    """Whether an example is one for `limbeck tune`."""
    return "\nsearch:" in (ROOT / "examples" / name).read_text()


def run_small(bench: Bench, verb: str, name: str):
    if name in NEEDS and not available(NEEDS[name]):
        pytest.skip(f"{NEEDS[name]} is not on this machine and cannot be downloaded")
    return bench.limbeck(verb, str(ROOT / "examples" / name), *SMALL[name], "--json").json


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SMALL if not searches(name)])
def test_example_runs(tmp_path, name):
    answer = run_small(Bench(tmp_path), "run", name)
    assert answer["state"] == "done"
    assert all(stage["digest"] for stage in answer["stages"].values())


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SMALL if searches(name)])
def test_example_searches(tmp_path, name):
    answer = run_small(Bench(tmp_path), "tune", name)
    assert [row["state"] for row in answer["trials"]] == ["done", "done"]
    assert answer["best"]["metric"] == answer["trials"][0]["metric"]


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


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_sweep_killed_in_the_middle_ends_with_the_same_table(tmp_path):
    argv = ["run", str(ROOT / "examples/ensloss_quick.yaml"), *SMALL["ensloss_quick.yaml"]]
    argv += ["sweep.epochs=20", "sweep.progress_s=0", "--json"]
    argv += ["sweep.networks=[{name: tabular_mlp, depth: 3, width: 32}]"]
    undisturbed = Bench(tmp_path / "undisturbed").limbeck(*argv).json
    bench = Bench(tmp_path / "killed")
    kill_when(bench, argv, lambda: len(list(bench.store.glob("shards/*/*.json"))) > 3 and progress(bench))
    answer = bench.limbeck(*argv).json
    assert digests(answer) == digests(undisturbed)
    assert answer["stages"]["sweep"]["cached_shards"] > 3
