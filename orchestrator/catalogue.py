"""Finds tasks by name: in our table, and in the entry-point group `limbeck.tasks` of other packages."""

import ast
import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
from pathlib import Path
from typing import Any

from orchestrator.errors import LimbeckError, UserError, nearest
from orchestrator.task import Task
from tasks import TASKS

AnyTask = type[Task[Any]]


@functools.cache
def targets() -> dict[str, str]:
    """Task name to `module:Class`. A foreign task cannot take a name of ours."""
    foreign = {point.name: point.value for point in importlib.metadata.entry_points(group="limbeck.tasks")}
    return foreign | TASKS


def find_task(name: str) -> AnyTask:
    """The class of a task; UserError with the nearest name where there is none."""
    if name not in targets():
        raise UserError(f"unknown task {name!r}; {nearest(name, targets())}")
    return import_task(targets()[name])


def import_task(target: str) -> AnyTask:
    """The class behind `module:Class`."""
    module, _, attribute = target.partition(":")
    try:
        task: AnyTask = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise LimbeckError(f"task {target!r} cannot be imported: {error}") from error
    assert issubclass(task, Task), f"{target} is not a Task"
    return task


@functools.cache
def source_digest(target: str) -> str:
    """Digest of the task's source: its module and, of the same top-level package, all that it imports."""
    module = target.partition(":")[0]
    package, seen, todo = module.partition(".")[0], dict[str, bytes](), [module]
    while todo:
        name = todo.pop()
        spec = importlib.util.find_spec(name) if name not in seen else None
        if spec is None or spec.origin is None:
            continue
        seen[name] = Path(spec.origin).read_bytes()
        within = name if spec.submodule_search_locations is not None else name.rpartition(".")[0]
        todo += [found for found in _imports(seen[name], package, within) if found not in seen]
    joined = b"".join(name.encode() + b"\0" + seen[name] for name in sorted(seen))
    return hashlib.sha256(joined).hexdigest()[:32]


def _imports(source: bytes, package: str, within: str) -> set[str]:
    """Modules of `package` that a source imports; `within` is the package that its relative imports start from."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = importlib.util.resolve_name("." * node.level + (node.module or ""), within)
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.partition(".")[0] == package and _is_module(name)}


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # `from module import name` where `name` is no module
        return False
