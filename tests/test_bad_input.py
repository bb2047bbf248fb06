"""Each kind of bad input is refused by the plan, before work starts, in one line that says what to do."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clusters import local
from orchestrator.errors import LimbeckError
from orchestrator.experiment import load_experiment
from orchestrator.plan import make_plan
from orchestrator.store import Store

EXPERTS = (
    "  experts: {task: expert_trajectories, dataset: DATASET, network: {width: 4, depth: 1}, "
    "experts: 1, epochs: 3}\n"
)
MATCHING = (
    '  distilled: {task: trajectory_matching, experts: "${experts}", iterations: 1, max_start_epoch: 1}\n'
)
SCORES = '  scores: {task: evaluate_distilled, distilled: "${distilled}", repeats: 1}\n'


def refused(tmp_path: Path, stages: str, *overrides: str) -> str:
    """The one message with which the plan is refused; nothing is left in the store."""
    path = tmp_path / "exp.yaml"
    path.write_text(f"name: bad\nstages:\n{stages}")
    store = Store.open(str(tmp_path / "store"))
    before = sorted(tmp_path.glob("store/**/*"))
    with pytest.raises(LimbeckError) as caught:
        make_plan(load_experiment(path, overrides), store, local.offer())
    assert caught.value.exit_code == 2
    assert sorted(tmp_path.glob("store/**/*")) == before
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def npz(folder: Path, name: str, images: np.ndarray, labels: np.ndarray) -> Path:
    np.savez(folder / name, images=images, labels=labels)
    return folder / name


def own(tmp_path: Path, images: np.ndarray, labels: np.ndarray) -> str:
    """Stages over an own npz set, with a test set alike."""
    train, test = (npz(tmp_path, f"{name}.npz", images, labels) for name in ("own", "own_test"))
    return EXPERTS.replace("DATASET", f"{{name: npz, train: {train}, test: {test}}}")


IMAGES = np.zeros((6, 8, 8), np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2])
DATA = {
    "labels that are not whole numbers": (IMAGES, LABELS + 0.5, "whole numbers"),
    "labels with gaps": (IMAGES, LABELS * 2, "gap"),
    "labels below zero": (IMAGES, LABELS - 1, "-1"),
    "one class only": (IMAGES, LABELS * 0, "one class"),
    "pixels that are not uint8": (IMAGES.astype(np.float32), LABELS, "uint8"),
    "as many labels as images": (IMAGES, LABELS[:4], "4"),
    "no images": (IMAGES[:0], LABELS[:0], "no images"),
    "images of one axis": (IMAGES[:, 0, 0], LABELS, "(N,"),
}


@pytest.mark.parametrize("case", DATA)
def test_own_data(tmp_path, case):
    images, labels, said = DATA[case]
    message = refused(tmp_path, own(tmp_path, images, labels))
    assert "own.npz" in message
    assert said in message


def test_files_that_are_missing_or_of_another_format(tmp_path):
    stages = EXPERTS.replace("DATASET", f"{{name: npz, train: {tmp_path}/no.npz, test: {tmp_path}/no.npz}}")
    assert "no.npz" in refused(tmp_path, stages)
    (tmp_path / "text.npz").write_text("not an archive")
    stages = EXPERTS.replace(
        "DATASET", f"{{name: npz, train: {tmp_path}/text.npz, test: {tmp_path}/text.npz}}"
    )
    assert "text.npz" in refused(tmp_path, stages)
    with gzip.open(tmp_path / "x-images-idx3-ubyte.gz", "wb") as file:
        file.write(b"\x00\x00\x08\x03 too short")
    path = tmp_path / "x-images-idx3-ubyte.gz"
    assert path.name in refused(
        tmp_path, EXPERTS.replace("DATASET", f"{{name: idx, train: {path}, test: {path}}}")
    )


def test_image_folders_of_differing_sizes_and_with_an_empty_class(tmp_path):
    for part, name, size in (
        ("train", "cat", 8),
        ("train", "dog", 9),
        ("test", "cat", 8),
        ("test", "dog", 8),
    ):
        (tmp_path / part / name).mkdir(parents=True)
        Image.new("L", (size, size)).save(tmp_path / part / name / "1.png")
    folders = f"{{name: image_folder, train: {tmp_path}/train, test: {tmp_path}/test}}"
    stages = EXPERTS.replace("DATASET", folders)
    assert "dog" in refused(tmp_path, stages)
    Image.new("L", (8, 8)).save(tmp_path / "train" / "dog" / "1.png")
    (tmp_path / "train" / "eel").mkdir()
    assert "eel" in refused(tmp_path, stages)


def test_test_data_of_another_shape_or_with_other_classes(tmp_path):
    train = npz(tmp_path, "train.npz", IMAGES, LABELS)
    test = npz(tmp_path, "test.npz", IMAGES[:, :7], LABELS)
    stages = EXPERTS.replace("DATASET", f"{{name: npz, train: {train}, test: {test}}}")
    assert "test.npz" in refused(tmp_path, stages)
    npz(tmp_path, "test.npz", IMAGES, LABELS % 2)
    assert "test.npz" in refused(tmp_path, stages) or "class" in refused(tmp_path, stages)


DIGITS = (EXPERTS + MATCHING + SCORES).replace("DATASET", "digits")
SETTINGS = {
    "an unknown dataset": (["experts.dataset=digit"], "digits"),
    "zero experts": (["experts.experts=0"], "stages.experts.experts"),
    "zero epochs": (["experts.epochs=0"], "stages.experts.epochs"),
    "zero iterations": (["distilled.iterations=0"], "stages.distilled.iterations"),
    "zero repeats": (["scores.repeats=0"], "stages.scores.repeats"),
    "no images a class": (["distilled.images_per_class=0"], "stages.distilled.images_per_class"),
    "more images a class than there are": (["distilled.images_per_class=1000"], "images_per_class"),
    "a depth too large for the image": (["experts.network.depth=9"], "depth"),
    "start epochs beyond the trajectories": (["distilled.max_start_epoch=9"], "max_start_epoch"),
    "a start epoch window of none": (["distilled.max_start_epoch=0"], "max_start_epoch"),
    "a last epoch beyond the last": (["experts.last_epoch=9"], "last_epoch"),
    "an unknown augmentation": (["experts.augment=crop_flop"], "flip"),
    "an unknown control": (["scores.controls=[randm]"], "random"),
    "an unknown network": (["experts.network.name=convnt"], "convnet"),
    "an architecture that does not fit": (["scores.networks=[{name: convnet, depth: 9}]"], "depth"),
    "a learning rate below zero": (["experts.lr=-1"], "stages.experts.lr"),
    "data that is not that of the trajectories": (["distilled.dataset=OTHER"], "digest"),
    "a kind of artifact that does not fit": (['scores.distilled="${experts}"'], "expected 'distilled'"),
    "an artifact that is not there": ([f"distilled.experts={'a' * 32}"], "holds no artifact"),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_settings(tmp_path, case):
    overrides, said = SETTINGS[case]
    if "OTHER" in overrides[0]:
        data = np.zeros((30, 8, 8), np.uint8), np.arange(30) % 10
        train, test = (npz(tmp_path, f"{name}.npz", *data) for name in ("other", "other_test"))
        overrides = [overrides[0].replace("OTHER", f"{{name: npz, train: {train}, test: {test}}}")]
    assert said in refused(tmp_path, DIGITS, *overrides)


def test_trajectories_of_another_network(tmp_path):
    snapshot = [torch.zeros(3, 3)]
    torch.save([[snapshot, snapshot]], tmp_path / "replay_buffer_0.pt")
    stages = (
        f"  experts: {{task: import_trajectories, path: {tmp_path}/replay_buffer_0.pt, dataset: digits, "
        "network: {width: 4, depth: 1}}\n"
    )
    assert "another network" in refused(tmp_path, stages)


def test_a_published_set_that_does_not_fit(tmp_path):
    torch.save(torch.zeros(10, 1, 8, 8), tmp_path / "images.pt")
    torch.save(torch.arange(9), tmp_path / "labels.pt")
    stages = (
        f"  distilled: {{task: import_distilled, images: {tmp_path}/images.pt, labels: {tmp_path}/labels.pt, "
        "learning_rate: 0.01, dataset: digits, network: {width: 4, depth: 1}}\n"
    )
    assert "labels" in refused(tmp_path, stages)


def test_a_store_of_a_later_version(tmp_path):
    Store.open(str(tmp_path / "store"))
    text = (tmp_path / "store" / "store.json").read_text()
    (tmp_path / "store" / "store.json").write_text(text.replace('"schema":1', '"schema":99'))
    with pytest.raises(LimbeckError, match="later version"):
        Store.open(str(tmp_path / "store"))
