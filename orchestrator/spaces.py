"""Checks a search before anything starts: its settings, and by real loading every end of its space."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import UserError, nearest
from orchestrator.experiment import (
    Experiment,
    ExperimentOptions,
    complaint,
    load_experiment,
    read_experiment,
    validated,
)
from orchestrator.search import Point, Search, overrides, plain_name
from orchestrator.yaml import Document

_CLOSED = set(ExperimentOptions.model_fields) - {"seed", "stages"}


@dataclass(frozen=True)
class Space:
    """A search that can be made."""

    search: Search
    name: str
    seed: int
    """The experiment's, from which points are drawn."""
    document: Mapping[str, Any]
    """The experiment, without the `search` block and any point of the space."""
    block: Mapping[str, Any]
    """The `search` block as it was written."""
    corners: tuple[Point, Point]
    """All settings at their lowest, or first, and all at their highest, or last."""
    experiments: tuple[Experiment, Experiment]
    """The experiment at the corners."""


def load_search(path: Path, given: Sequence[str] = ()) -> Space:
    """The `search` block of an experiment; `given` are overrides of the command line.

    Loads the experiment at every end of the space. UserError names file, line, setting and the nearest name.
    """
    document = read_experiment(path, given)
    options = validated(ExperimentOptions, document.values, (), document)
    if options.search is None:
        raise UserError(
            f"{path}: there is no `search` block; write one with at least metric and space (docs/tune.md)"
        )
    search = validated(Search, options.search, ("search",), document)
    for name in search.space:
        _check_name(name, options, document)
    low, high = ({name: one.ends[end] for name, one in search.dimensions.items()} for end in (0, -1))
    first = _load(path, given, low, search, document, tuple(low))
    for name, distribution in search.dimensions.items():
        for value in distribution.ends[1:]:
            _load(path, given, {**low, name: value}, search, document, (name,))
    metric_stage(search.metric, first, document)
    last = _load(path, given, high, search, document, tuple(high))
    plain = {name: value for name, value in document.values.items() if name != "search"}
    return Space(search, options.name, options.seed, plain, options.search, (low, high), (first, last))


def metric_stage(metric: str, experiment: Experiment, document: Document | None = None) -> str:
    """The stage instance whose metric it is; what follows its name is the metric's own."""
    names = [stage.name for stage in experiment.stages]
    found = [name for name in names if metric.startswith(f"{name}.") and len(metric) > len(name) + 1]
    if found:
        return max(found, key=len)
    base = metric.partition(".")[0]
    message = f"found {metric!r}: there is no stage {base!r}; {nearest(base, names)}"
    if base in experiment.names:
        several = [f"{name}{metric.removeprefix(base)}" for name in names if name.startswith(f"{base}[")]
        message = f"found {metric!r}: stage {base} has {len(several)} instances; name one, as {several[0]}"
    where = ("search", "metric")
    raise UserError(complaint(where, document, message) if document else f"{'.'.join(where)}: {message}")


def _check_name(name: str, options: ExperimentOptions, document: Document) -> None:
    """Refuses a name of the space that is no setting of a stage, before it is tried."""
    parts = plain_name(name).split(".")
    message = None
    if not all(parts) or parts[0] in _CLOSED or (len(parts) < 2 and parts != ["seed"]):
        message = "expected a setting of a stage, as stages.distilled.pixel_lr, or seed"
    elif parts[0] != "seed" and parts[0] not in options.stages:
        message = f"there is no stage {parts[0]!r}; {nearest(parts[0], options.stages)}"
    elif parts[1:2] == ["task"]:
        message = "a search cannot vary a stage's task"
    if message:
        raise UserError(complaint(("search", "space", name), document, message))


def _load(
    path: Path, given: Sequence[str], point: Point, search: Search, document: Document, names: Sequence[str]
) -> Experiment:
    """The experiment at a point; a mistake is told at the line of the setting in the space that made it."""
    texts = overrides(point)
    try:
        return load_experiment(path, [*given, *texts])
    except UserError as error:
        blamed = next((name for name in names if f"override stages.{name}=" in str(error)), None)
        if blamed is None:
            raise
        written = next(name for name in search.space if plain_name(name) == blamed)
        problem = re.sub(r"override \S+?=.*?: (?=stages\.)", "", str(error))
        raise UserError(complaint(("search", "space", written), document, problem)) from error
