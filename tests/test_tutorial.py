"""The commands of docs/tutorial.md run, in their order, on images in folders; those of docs/reproduce.md exist."""

import re
import shlex
from pathlib import Path

import pytest
from engine import Bench
from examples_small import SMALL
from PIL import Image

from tasks.data import Dataset
from tests.test_readme import commands

ROOT = Path(__file__).parent.parent
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text()
SHORT = [
    "experts.experts=1", "experts.epochs=2", "distilled.iterations=3", "distilled.max_start_epoch=1",
    "distilled.student_steps=2", "scores.repeats=1", "scores.epochs=3",
]  # fmt: skip


def photos(folder: Path) -> None:
    """Two classes of digits as PNG files."""
    data = Dataset(name="digits").load()
    for split in ("train", "test"):
        part = getattr(data, split)
        for name, number in (("daisy", 0), ("rose", 1)):
            place = folder / split / name
            place.mkdir(parents=True)
            for index, image in enumerate(part.images[part.labels == number][:20]):
                Image.fromarray(image[0]).save(place / f"{index:04d}.png")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_tutorial_runs(tmp_path):
    bench = Bench(tmp_path)
    photos(tmp_path / "photos")
    (block,) = re.findall(r"```yaml\n(.*?)```", TUTORIAL, flags=re.DOTALL)
    (tmp_path / "photos.yaml").write_text(block)
    lines = commands(TUTORIAL)
    assert len(lines) > 10
    for line in lines:
        argv = shlex.split(line)[1:]
        bench.limbeck(*argv, *(SHORT if argv[0] in ("run", "plan", "launch") else []))
    assert (tmp_path / "photos-distilled/data/train-00000.parquet").exists()


def test_what_reproduces_the_readme_exists():
    text = (ROOT / "docs" / "reproduce.md").read_text()
    named = re.findall(r"limbeck (?:run|tune) examples/(\S+?\.yaml)", text)
    assert set(named) <= set(SMALL)
    readme = re.findall(r"`limbeck run examples/(\S+?\.yaml)`", (ROOT / "README.md").read_text())
    assert set(readme) <= set(named)
    for script in re.findall(r"benchmarks/(\w+\.py)", text):
        assert (ROOT / "benchmarks" / script).exists()
