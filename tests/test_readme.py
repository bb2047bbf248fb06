"""Every command in README.md and docs/ is one that the command line takes; those of the README run."""

import re
import shlex
from pathlib import Path

import pytest
from engine import Bench
from examples_small import SMALL

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
LONG_RUNNING = ("limbeck ui",)


def commands(text: str) -> list[str]:
    """The lines of indented or fenced blocks that begin with `limbeck`, comments cut off."""
    found = re.findall(r"^(?: {4}|\$ )?(limbeck [^#\n]*)", text, flags=re.MULTILINE)
    return list(dict.fromkeys(line.strip() for line in found))


def test_make_targets_in_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`?make ([a-z]+)", README):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_readme_commands_run(tmp_path):
    """In the order of the README, on one store, as a reader would; experiments are scaled down."""
    bench = Bench(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    lines = [line for line in commands(README) if not line.startswith(LONG_RUNNING)]
    assert lines
    for line in lines:
        argv = shlex.split(line)[1:]
        experiment = next((Path(word).name for word in argv if word.endswith(".yaml")), None)
        if experiment in SMALL:
            argv += SMALL[experiment]
        bench.limbeck(*argv)
