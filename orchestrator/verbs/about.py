"""`limbeck tasks`, `datasets`, `schema`, `doctor` and `ui`: what there is, and what this machine can do."""

import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from clusters import local
from orchestrator.catalogue import find_task, targets
from orchestrator.console import Console
from orchestrator.errors import LimbeckError
from orchestrator.experiment import input_fields
from orchestrator.places import home, is_remote
from orchestrator.provenance import environment
from orchestrator.store import Store, open_bytes
from orchestrator.task import Role
from tasks import DATASETS, TWO_CLASS_DATASETS


def tasks(as_json: bool) -> None:
    """Every task: name, what it takes and makes, and one line of what it does."""
    console = Console(as_json=as_json)
    found = [_task_row(name) for name in sorted(targets())]
    if as_json:
        return console.answer(found)
    rows = [[row["task"], ", ".join(row["takes"]) or "-", row["makes"], row["about"]] for row in found]
    console.table("", ["task", "takes", "makes", "what it does"], rows)
    return console.print("settings of one: limbeck schema TASK")


def datasets(as_json: bool) -> None:
    """Every dataset, and the forms in which one's own may come."""
    console = Console(as_json=as_json)
    lists = {"images": DATASETS, "two classes": TWO_CLASS_DATASETS}
    rows = [[kind, name, about] for kind, known in lists.items() for name, about in known.items()]
    if as_json:
        return console.answer([{"kind": kind, "dataset": name, "about": about} for kind, name, about in rows])
    return console.table("", ["for", "dataset", "what it is, where it lies"], rows)


def schema(task: str, as_json: bool) -> None:
    """The settings of a task: name, type, default, what it means."""
    console, config = Console(as_json=as_json), find_task(task).Config
    if as_json:
        return console.answer(config.model_json_schema())
    for name, kind, default, about in _settings_rows(config):
        console.print(f"{name}: {kind}" + ("" if default == "needed" else f" = {default}"))
        console.print(f"    {about}")
    return None


def doctor(store_uri: str, as_json: bool) -> None:
    """What this machine has, and whether the store can be written. Exit code 1 where something is wrong."""
    console = Console(as_json=as_json)
    offer = local.offer(shutil.disk_usage(_existing(home(store_uri))).free)
    checks = [_check_python(), _check_store(store_uri), _check_shared_memory(), _check_clock()]
    facts = {
        **environment(),
        "cpus_offered": offer.cpus,
        "gpus_offered": offer.gpus,
        "memory_gb_offered": offer.memory_gb,
        "disk_gb_free": offer.disk_gb,
    }
    healthy = all(check["ok"] for check in checks)
    if as_json:
        console.answer({"healthy": healthy, "checks": checks, "facts": facts})
    else:
        console.table("", ["check", "ok", "found"], [[c["check"], c["ok"], c["found"]] for c in checks])
        rows = [[name, value] for name, value in _flat_facts(facts)]
        console.table("", ["fact", "value"], rows)
    if not healthy:
        wrong = "; ".join(check["found"] for check in checks if not check["ok"])
        raise LimbeckError(wrong, answered=as_json)


def ui(store_uri: str, tracking: str | None, port: int) -> None:
    """Serves until Ctrl-C."""
    from orchestrator.tracking import files_root, uri_of
    from orchestrator.ui import serve

    console, store = Console(), Store.open(store_uri, create=False)
    folder = home(store.uri)
    with serve(folder, uri_of(store.uri, tracking), port=port, artifact_root=files_root(folder)) as url:
        console.print(f"MLflow at {url}; Ctrl-C ends it")
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            console.say("ended")


def _task_row(name: str) -> dict[str, Any]:
    task = find_task(name)
    takes = sorted({mark.kind for mark in input_fields(task.Config).values()})
    about = (task.__doc__ or "").strip().partition("\n")[0]
    return {"task": name, "takes": takes, "makes": task.makes, "version": task.version, "about": about}


def _settings_rows(model: type[BaseModel], prefix: str = "") -> list[list[Any]]:
    rows: list[list[Any]] = []
    for name, field in model.model_fields.items():
        about = " ".join((field.description or "").split())
        if Role.PLAN in field.metadata:
            about += " (adds shards; changes none)"
        default = "needed" if field.default is PydanticUndefined else _default(field.default)
        rows.append([prefix + name, _type_name(field.annotation), default, about])
        for place, inner in _nested(field.annotation):
            rows += _settings_rows(inner, f"{prefix}{name}{place}.")
    return rows


def _nested(annotation: Any) -> Iterator[tuple[str, type[BaseModel]]]:
    """The settings in a field's type, optional ones and, with `[]`, those in lists."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield "", annotation
        return
    listed = "[]" if get_origin(annotation) is tuple else ""
    for part in get_args(annotation):
        yield from ((listed + place, inner) for place, inner in _nested(part))


def _default(value: Any) -> str:
    if isinstance(value, BaseModel):
        return value.model_dump_json(exclude_defaults=True)
    return "-" if value is None else str(value)


def _type_name(annotation: Any) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " | ".join(str(part) for part in parts)
    if origin is Annotated:
        return _type_name(parts[0])
    if origin is tuple:
        return f"list of {_type_name(parts[0])}"
    if parts:
        return " or ".join(_type_name(part) for part in parts if part is not type(None))
    return str(getattr(annotation, "__name__", annotation))


def _existing(path: Path) -> Path:
    path = path.expanduser().absolute()
    return path if path.exists() else _existing(path.parent)


def _check_python() -> dict[str, Any]:
    return {
        "check": "python",
        "ok": sys.version_info >= (3, 11),
        "found": f"Python {platform.python_version()} (3.11 or newer needed)",
    }


def _check_store(store_uri: str) -> dict[str, Any]:
    if is_remote(store_uri):
        return _check_remote(store_uri)
    place = _existing(Path(store_uri))
    try:
        with tempfile.TemporaryFile(dir=place):
            ok = True
    except OSError:
        ok = False
    return {"check": "store", "ok": ok, "found": f"{store_uri} {'can' if ok else 'cannot'} be written"}


def _check_remote(store_uri: str) -> dict[str, Any]:
    try:
        open_bytes(store_uri).check_writable()
    except LimbeckError as error:
        return {"check": "store", "ok": False, "found": str(error)}
    return {"check": "store", "ok": True, "found": f"{store_uri} can be written, and knows conditional puts"}


def _check_shared_memory() -> dict[str, Any]:
    place = Path("/dev/shm")
    free = shutil.disk_usage(place).free if place.exists() else None
    ok = free is None or free > 300 * 10**6
    return {
        "check": "shared memory",
        "ok": ok,
        "found": "none" if free is None else f"{free / 1e9:.1f} GB free (0.3 needed)",
    }


def _check_clock() -> dict[str, Any]:
    return {"check": "clock", "ok": time.time() > 1.7e9, "found": time.strftime("%Y-%m-%d %H:%M:%S %z")}


def _flat_facts(facts: dict[str, Any]) -> list[tuple[str, Any]]:
    packages = facts.pop("packages")
    return [*facts.items(), *((f"package {name}", version) for name, version in packages.items())]
