"""The house rules that code can hold: who may import whom, and how long things may be."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("orchestrator", "tasks", "clusters")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
ENGINE_CLI = {"orchestrator/cli.py"} | {
    f"orchestrator/verbs/{name}.py" for name in ("running", "tuning", "about", "launching", "watching")
}
"""The command line stands on top and may see the clusters."""


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


def names(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", FILES, ids=names)
def test_arrows(path):
    inside, found = names(path), imports(path)
    roots = {name.partition(".")[0] for name in found}
    if inside.startswith("tasks/"):
        assert not roots & {"ray", "mlflow", "clusters"}
        assert {name for name in found if name.startswith("orchestrator")} <= {"orchestrator.task"}
    if inside.startswith("orchestrator/"):
        assert not {name for name in found if name.startswith("tasks.")}
        assert "clusters" not in roots or inside in ENGINE_CLI
    if "mlflow" in roots:
        assert inside in ("orchestrator/tracking.py", "orchestrator/ui.py")
    if "ray" in roots:
        assert inside.startswith(("orchestrator/executors/", "clusters/"))


@pytest.mark.parametrize("path", FILES, ids=names)
def test_files_and_functions_are_short(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 500
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 70, f"{node.name} in line {node.lineno}"
