"""Every file in examples/ runs through the command line, the large ones scaled down by overrides."""

from pathlib import Path

import numpy as np
import pytest
from engine import Bench, digests, kill_when, progress
from examples_small import CIFAR10_SMALL, NEEDS, SHARED, SMALL

from orchestrator.experiment import load_experiment
from tasks import DATASETS
from tasks.data import Dataset
from tasks.data.files import data_folder

ROOT = Path(__file__).parent.parent


def available(name: str) -> bool:
    """Whether a named dataset, or another folder of data, is on this machine."""
    if name not in DATASETS:
        return data_folder(name, None).is_dir()
    try:
        Dataset(name=name).content_digest()
    except (OSError, ValueError):
        return False
    return True


def test_every_example_is_listed():
    folder = ROOT / "examples"
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*.yaml")) == sorted(SMALL)


@pytest.mark.parametrize("name", SMALL)
def test_workers_read_the_settings_that_the_driver_read(name):
    for stage in load_experiment(ROOT / "examples" / name).stages:
        told = stage.config.model_dump_json(exclude_unset=True)
        assert type(stage.config).model_validate_json(told) == stage.config


@pytest.mark.parametrize("name", ["digits.yaml", "digits_students.yaml", "ensloss_quick.yaml"])
def test_what_the_tour_makes_is_cached_for_these(name):
    toured = {stage.name: stage.config for stage in load_experiment(ROOT / "examples/tour.yaml").stages}
    own = {stage.name: stage.config for stage in load_experiment(ROOT / "examples" / name).stages}
    assert own.items() <= toured.items()


def searches(name: str) -> bool:
    """Whether an example is one for `limbeck tune`."""
    return "\nsearch:" in (ROOT / "examples" / name).read_text()


def run_small(bench: Bench, verb: str, name: str):
    for needed in NEEDS.get(name, ()):
        if not available(needed):
            pytest.skip(f"{needed} is not on this machine and cannot be downloaded")
    overrides = SMALL[name]
    if any(CIFAR10_SMALL in text for text in overrides):
        small = first_images(bench.folder)
        overrides = [text.replace(CIFAR10_SMALL, small) for text in overrides]
    return bench.limbeck(verb, str(ROOT / "examples" / name), *overrides, "--json", timeout=800).json


def first_images(folder: Path) -> str:
    """A dataset of the first images of CIFAR-10, as the value of a setting."""
    data = Dataset(name="cifar10").load()
    for split in ("train", "test"):
        part = getattr(data, split)
        np.savez(folder / split, images=part.images[:200].transpose(0, 2, 3, 1), labels=part.labels[:200])
    return f"{{name: npz, train: {folder}/train.npz, test: {folder}/test.npz}}"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", [name for name in SMALL if not searches(name)])
def test_example_runs(tmp_path, name):
    answer = run_small(Bench(tmp_path), "run", name)
    assert answer["state"] == "done"
    assert all(stage["digest"] for stage in answer["stages"].values())


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", [name for name in SMALL if searches(name)])
def test_example_searches(tmp_path, name):
    answer = run_small(Bench(tmp_path), "tune", name)
    states = {row["state"] for row in answer["trials"]}
    assert len(answer["trials"]) == 2
    assert "done" in states
    assert states <= {"done", "stopped"}  # the scheduler may find the second trial to be behind
    assert sum(row["reused"] for row in answer["trials"]) == SHARED[name]
    assert answer["best"]["metric"] == max(
        row["metric"] for row in answer["trials"] if row["metric"] is not None
    )


@pytest.mark.faults
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


@pytest.mark.faults
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
