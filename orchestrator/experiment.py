"""What the user wrote: YAML and overrides to a frozen, validated Experiment of stage instances in order."""

import itertools
import json
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError, field_validator

from orchestrator.catalogue import find_task
from orchestrator.errors import UserError, nearest
from orchestrator.task import Input, Settings
from orchestrator.yaml import Document, Where, parse_scalar, read_document

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_REFERENCE = re.compile(r"\$\{([^}]*)\}")
_ARTIFACT_ID = re.compile(r"[0-9a-f]{32}")


class Resources(Settings):
    """What a stage asks for; none of it is in a key."""

    workers: int | None = Field(default=None, ge=1)
    """Workers side by side; unset: as many as fit."""
    cpus: float | None = Field(default=None, gt=0)
    """CPU cores of each worker; unset: what the task needs."""
    gpus: float | None = Field(default=None, ge=0)
    """GPUs of each worker, fractions allowed; unset: what the task needs."""
    memory_gb: float | None = Field(default=None, gt=0)
    """Main memory of each worker in GB; unset: what the task needs."""
    threads: int | None = Field(default=None, ge=1)
    """Threads that torch may use in each worker; unset: 1."""
    ranks: int | None = Field(default=None, ge=1)
    """Processes that compute one shard together, each with the above; unset: 1. For tasks that work in gangs."""


class StageOptions(Settings):
    """How the engine treats a stage: the keys of a stage beside the settings of its task."""

    task: str
    """Name of the task."""
    resources: Resources = Resources()
    """What each worker asks for."""
    matrix: dict[str, tuple[Any, ...]] = {}
    """Settings to vary: one instance of the stage for each combination of the values."""
    retries: int = Field(default=2, ge=0)
    """How often a shard is tried again after its worker or node died."""
    deadline_s: float = Field(default=600.0, gt=0)
    """Seconds without any progress after which a worker is given up."""
    tolerate_failures: float = Field(default=0.0, ge=0, lt=1)
    """Share of the shards that may fail for good; the stage then ends without them, under a key of its own."""
    progress_s: float = Field(default=10.0, ge=0)
    """Seconds between saves of progress inside a shard."""


class ExperimentOptions(Settings):
    """The top level of the file."""

    name: str
    """Name of the experiment: letters, digits, `-`, `_`, `.`."""
    seed: int = Field(default=0, ge=0)
    """Every random stream starts from it."""
    stages: dict[str, dict[str, Any]] = Field(min_length=1)
    """Stage name to its task and settings."""
    search: dict[str, Any] | None = None
    """What `limbeck tune` reads; in no key."""

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", name):
            raise ValueError("expected at most 100 letters, digits, '-', '_' or '.'")
        return name


@dataclass(frozen=True)
class Stage:
    """One instance of a stage: a stage without a matrix has one, else one for each point of the matrix."""

    name: str
    """`distilled`, or `distilled[images_per_class=1]`."""
    options: StageOptions
    config: Settings
    sources: Mapping[str, str]
    """Config field to the stage instance, or the artifact id, that it names."""

    @property
    def base(self) -> str:
        return self.name.partition("[")[0]


@dataclass(frozen=True)
class Experiment:
    """A validated experiment; `stages` are in an order in which they can run."""

    name: str
    seed: int
    stages: tuple[Stage, ...]
    document: Mapping[str, Any]
    """The plain values, overrides included, without the `search` block."""
    overrides: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the stages without their matrix points, in order."""
        return tuple(dict.fromkeys(stage.base for stage in self.stages))


def load_experiment(path: Path, overrides: Sequence[str] = ()) -> Experiment:
    """Reads and validates. UserError names file, line, field, what was found and expected."""
    document = read_experiment(path, overrides)
    options = validated(ExperimentOptions, document.values, (), document)
    raw = {name: _split(name, settings, document) for name, settings in options.stages.items()}
    order = _sorted_by_reference({name: _references(name, raw, document) for name in raw}, document)
    axes: dict[str, dict[str, tuple[Any, ...]]] = {}
    stages: list[Stage] = []
    for name in order:
        stage_options, settings, references = raw[name][0], raw[name][1], _references(name, raw, document)
        own = {f"{name}.{axis}": values for axis, values in stage_options.matrix.items()}
        axes[name] = _merge([axes[source] for source in references.values()]) | own
        for point in _points(axes[name]):
            stages.append(_instance(name, stage_options, settings, references, point, axes, document))
    values = {name: value for name, value in document.values.items() if name != "search"}
    return Experiment(options.name, options.seed, tuple(stages), values, tuple(overrides))


def read_experiment(path: Path, overrides: Sequence[str] = ()) -> Document:
    """The plain values and where each was written, overrides included; nothing is checked yet."""
    document = read_document(path)
    for text in overrides:
        document.override(*_override(text, document))
    return document


def parse_settings(model: type[Settings], values: Mapping[str, Any]) -> Settings:
    """Plain JSON values to a frozen Config, strictly: lists become tuples, nothing else is converted."""
    return model.model_validate_json(json.dumps(values))


def _override(text: str, document: Document) -> tuple[Where, Any]:
    name, equals, value = text.partition("=")
    if not equals or not all(name.split(".")):
        raise UserError(f"override {text!r}: expected a.b=value, for example experts.epochs=5")
    where = tuple(name.split("."))
    if where[0] not in ExperimentOptions.model_fields:
        where = ("stages", *where)
    stages = document.values.get("stages")
    if where[0] == "stages" and isinstance(stages, dict) and where[1:2] and where[1] not in stages:
        raise UserError(f"override {text!r}: there is no such stage; {nearest(where[1], stages)}")
    return where, parse_scalar(value)


def _split(name: str, settings: dict[str, Any], document: Document) -> tuple[StageOptions, dict[str, Any]]:
    where = ("stages", name)
    if not _NAME.fullmatch(name) or name in ExperimentOptions.model_fields:
        raise UserError(
            f"{document.place(where)}: stage name {name!r}: expected small letters, digits and '_', "
            f"and none of {', '.join(ExperimentOptions.model_fields)}"
        )
    engine = {key: value for key, value in settings.items() if key in StageOptions.model_fields}
    options = validated(StageOptions, engine, where, document)
    try:
        task = find_task(options.task)
    except UserError as error:
        raise UserError(f"{document.place((*where, 'task'))}: stages.{name}.task: {error}") from error
    for axis, values in options.matrix.items():
        _check_axis(task.Config, axis, values, (*where, "matrix", axis), document)
    return options, {key: value for key, value in settings.items() if key not in engine}


def _check_axis(
    model: type[Settings], axis: str, values: tuple[Any, ...], where: Where, document: Document
) -> None:
    field = axis.split(".")[0]
    if field not in model.model_fields:
        raise UserError(complaint(where, document, f"no such setting; {nearest(field, model.model_fields)}"))
    if field in input_fields(model):
        raise UserError(complaint(where, document, "a matrix cannot vary an input; write one stage for each"))
    if not values or len({json.dumps(value) for value in values}) != len(values):
        raise UserError(complaint(where, document, f"found {list(values)}, expected different values"))


def _references(
    name: str, raw: Mapping[str, tuple[StageOptions, dict[str, Any]]], document: Document
) -> dict[str, str]:
    """Config field to the stage it names with `${stage}`."""
    options, settings = raw[name]
    found: dict[str, str] = {}
    marked = input_fields(find_task(options.task).Config)
    for field, value in settings.items():
        match = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            continue
        where = ("stages", name, field)
        if field not in marked:
            expected = f"only {', '.join(marked)} can" if marked else "none of its settings can"
            raise UserError(
                complaint(where, document, f"{value} names a stage, but this setting cannot; {expected}")
            )
        if match[1] not in raw:
            raise UserError(
                complaint(where, document, f"{value}: there is no such stage; {nearest(match[1], raw)}")
            )
        found[field] = match[1]
    return found


def input_fields(model: type[Settings]) -> dict[str, Input]:
    """The fields of a Config that name artifacts."""
    return {
        name: mark
        for name, field in model.model_fields.items()
        for mark in field.metadata
        if isinstance(mark, Input)
    }


def _sorted_by_reference(graph: Mapping[str, Mapping[str, str]], document: Document) -> list[str]:
    """As in the file, but that a stage comes after those that it names."""
    order: list[str] = []
    while len(order) < len(graph):
        ready = [name for name in graph if name not in order and set(graph[name].values()) <= set(order)]
        if not ready:
            stuck = [name for name in graph if name not in order]
            circle = _circle(graph, stuck)
            place = document.place(("stages", circle[0]))
            raise UserError(
                f"{place}: stages go round in a circle: {' -> '.join(circle)}; remove one reference"
            )
        order.append(ready[0])
    return order


def _circle(graph: Mapping[str, Mapping[str, str]], stuck: Sequence[str]) -> list[str]:
    path = [stuck[0]]
    while path.count(path[-1]) < 2:
        path.append(next(name for name in graph[path[-1]].values() if name in stuck))
    return path[path.index(path[-1]) :]


def _merge(maps: Iterable[Mapping[str, tuple[Any, ...]]]) -> dict[str, tuple[Any, ...]]:
    return {axis: values for axes in maps for axis, values in axes.items()}


def _points(axes: Mapping[str, tuple[Any, ...]]) -> list[dict[str, Any]]:
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def _instance_name(name: str, point: Mapping[str, Any], axes: Iterable[str]) -> str:
    shown = [f"{axis.partition('.')[2]}={_short(point[axis])}" for axis in axes]
    return f"{name}[{','.join(shown)}]" if shown else name


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _instance(
    name: str,
    options: StageOptions,
    settings: Mapping[str, Any],
    references: Mapping[str, str],
    point: Mapping[str, Any],
    axes: Mapping[str, Mapping[str, tuple[Any, ...]]],
    document: Document,
) -> Stage:
    values = json.loads(json.dumps(settings, default=str))
    for axis in options.matrix:
        _put(values, axis.split("."), point[f"{name}.{axis}"])
    task = find_task(options.task)
    config = validated(task.Config, values, ("stages", name), document)
    sources = {field: _instance_name(source, point, axes[source]) for field, source in references.items()}
    for field in input_fields(task.Config):
        value = getattr(config, field)
        if field in sources or value is None:
            continue
        if not _ARTIFACT_ID.fullmatch(value):
            expected = 'expected "${stage}" or the 32 hex digits of an artifact (`limbeck artifacts ls`)'
            raise UserError(complaint(("stages", name, field), document, f"found {value!r}, {expected}"))
        sources[field] = value
    return Stage(_instance_name(name, point, axes[name]), options, config, sources)


def _put(values: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for name in path[:-1]:
        below = values.get(name, {})
        values[name] = {"name": below} if isinstance(below, str) else dict(below)
        values = values[name]
    values[path[-1]] = value


SettingsT = typing.TypeVar("SettingsT", bound=Settings)


def validated(
    model: type[SettingsT], values: Mapping[str, Any], where: Where, document: Document
) -> SettingsT:
    """`values`, which were written at `where`, as a Config; UserError names the place of each mistake."""
    try:
        return model.model_validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        lines = [_explain(model, dict(detail), where, document) for detail in error.errors()]
        raise UserError("\n".join(dict.fromkeys(lines))) from error


def _explain(model: type[BaseModel], detail: Mapping[str, Any], where: Where, document: Document) -> str:
    location = tuple(str(part) for part in detail["loc"])
    found, field = detail["input"], (*where, *location)
    if detail["type"] == "extra_forbidden":
        known = _fields_at(model, location[:-1])
        if where[:1] == ("stages",):
            known = known | (set(StageOptions.model_fields) if len(location) == 1 else set())
        return complaint(field, document, f"unknown key; {nearest(location[-1], known)}")
    if detail["type"] == "missing":
        return complaint(field, document, "missing; it has to be given")
    message = str(detail["msg"]).removeprefix("Value error, ")
    return complaint(field, document, f"found {_brief(found)}: {message}")


def _brief(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 80 else f"{text[:77]}..."


def complaint(where: Where, document: Document, message: str) -> str:
    """A message with the file, the line and the name of what it is about."""
    return f"{document.place(where)}: {'.'.join(where)}: {message}"


def _fields_at(model: type[BaseModel], location: Sequence[str]) -> set[str]:
    """Names of the fields of the model that lies at `location` inside `model`."""
    for name in location:
        if name in model.model_fields:
            model = _inner_model(model.model_fields[name].annotation) or model
    return set(model.model_fields)


def _inner_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return annotation if issubclass(annotation, BaseModel) else None
    return next((found for part in typing.get_args(annotation) if (found := _inner_model(part))), None)
