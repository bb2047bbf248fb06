"""Every file in examples/ runs through the command line, the large ones scaled down by overrides."""

from pathlib import Path

import pytest
from engine import Bench
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
