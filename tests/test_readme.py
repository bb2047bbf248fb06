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
EXAMPLE = re.compile(r"limbeck (run|tune) examples/(\S+)")
"""tests/test_examples.py runs them."""


def commands(text: str) -> list[str]:
    """The lines of indented or fenced blocks that begin with `limbeck`, comments cut off."""
    found = re.findall(r"^(?: {4}|\$ )?(limbeck [^#\n]*)", text, flags=re.MULTILINE)
    return list(dict.fromkeys(line.strip() for line in found))


def test_make_targets_in_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:`|^ {4})make ([a-z]+)", README, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_examples_in_the_readme_exist():
    named = [match[2] for line in commands(README) if (match := EXAMPLE.fullmatch(line))]
    assert named
    assert set(named) <= set(SMALL)


def block(language: str, start: str) -> str:
    """The fenced block of the README that begins so."""
    blocks = re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)
    return next(text for text in blocks if text.startswith(start))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_readme_commands_run(tmp_path, monkeypatch):
    """In the order of the README, on one store, as a reader would, but for examples alone, each of which has a
    test of its own; with options they are scaled down. Then the lines of Python."""
    bench = Bench(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "first.yaml").write_text(block("yaml", "name: first"))
    lines = [
        line for line in commands(README) if not line.startswith(LONG_RUNNING) and not EXAMPLE.fullmatch(line)
    ]
    assert len(lines) > 10
    for line in lines:
        argv = shlex.split(line)[1:]
        experiment = next((Path(word).name for word in argv if word.endswith(".yaml")), None)
        bench.limbeck(*argv, *SMALL.get(experiment, []))
    monkeypatch.setenv("LIMBECK_STORE", str(bench.store))
    names = {}
    exec(block("python", "import orchestrator"), names)  # the README's own lines
    assert names["synthetic"]["images"].shape == (10, 1, 8, 8)
