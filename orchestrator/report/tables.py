"""Small tables and texts that closing steps made."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.console import shown
from orchestrator.report.subject import StageView, Subject
from orchestrator.store import StoredArtifact

_ROWS, _BYTES, _LETTERS = 60, 1_000_000, 300
SUMMARY = "summary"


@dataclass(frozen=True)
class Table:
    """The first rows of a table."""

    stage: str
    name: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    total: int
    numeric: Sequence[bool]
    """Of each column."""


@dataclass(frozen=True)
class Text:
    """One field of a sample, and whose it is."""

    title: str
    text: str


def tables(subject: Subject) -> list[Table]:
    """Those of each stage that are small enough, the summaries first."""
    found = []
    for stage in subject.stages:
        for name, ref in stage.manifest.files.items() if stage.manifest else ():
            base, _, suffix = name.rpartition(".")
            if suffix == "parquet" and ref.size <= _BYTES and ref.rows:
                found.append(_table(subject, stage, base))
    return sorted(found, key=lambda table: table.name != SUMMARY)


def samples(subject: Subject) -> dict[str, list[list[Text]]]:
    """Stage and document to its samples, each a list of texts to be read side by side.

    A document that is a list of objects with two texts or more counts as samples. Where the points of a matrix
    have the same text, it is shown once.
    """
    told: dict[str, dict[str, list[Mapping[str, Any]]]] = defaultdict(dict)
    for stage in subject.stages:
        for name, ref in stage.manifest.files.items() if stage.manifest else ():
            if name.endswith(".json") and ref.size <= _BYTES:
                rows = _artifact(subject, stage).document(name.removesuffix(".json"))
                if are_samples(rows):
                    told[f"{name.removesuffix('.json')} of {stage.base}"][stage.point] = rows
    return {title: _beside(points) for title, points in told.items()}


def are_samples(rows: Any) -> bool:
    """Whether a document is a list of objects with two texts or more."""
    return (
        isinstance(rows, list)
        and bool(rows)
        and all(
            isinstance(row, dict) and sum(isinstance(value, str) for value in row.values()) > 1
            for row in rows
        )
    )


def _beside(points: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[list[Text]]:
    found = []
    for number in range(min(len(rows) for rows in points.values())):
        by_field: dict[str, dict[str, str]] = defaultdict(dict)
        for point, rows in points.items():
            for field, value in rows[number].items():
                if isinstance(value, str):
                    by_field[field][point] = value
        sample = []
        for field, values in by_field.items():
            same = len(set(values.values())) == 1
            each = dict(list(values.items())[:1]) if same else values
            sample += [
                Text(field if same or not point else f"{field}, {point}", text)
                for point, text in each.items()
            ]
        found.append(sample)
    return found


def _table(subject: Subject, stage: StageView, name: str) -> Table:
    table = _artifact(subject, stage).table(name)
    rows = table.slice(0, _ROWS).to_pylist()
    numeric = [
        all(isinstance(row[column], int | float | None) for row in rows) for column in table.column_names
    ]
    cells = [[shown(value)[:_LETTERS] for value in row.values()] for row in rows]
    return Table(stage.name, name, table.column_names, cells, table.num_rows, numeric)


def _artifact(subject: Subject, stage: StageView) -> StoredArtifact:
    assert stage.manifest is not None
    return subject.store.artifact(stage.manifest.id)
