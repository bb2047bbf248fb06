"""Final metrics as tables: what shares a measure stands in one column, with its standard error. Pure."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """A value and its standard error, where there is one, and where both lie between the column's ends."""

    value: float
    error: float | None
    place: float = 0.5
    """0 for the column's lowest end, 1 for its highest."""
    spread: float = 0.0
    """The standard error on the same scale."""


@dataclass(frozen=True)
class Numbers:
    """Rows of cells under the names of their measures."""

    title: str
    measures: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell | None]]]


def number_tables(stages: Mapping[str, Sequence[tuple[str, Mapping[str, float]]]]) -> list[Numbers]:
    """`stages`: a stage's name to the points of its matrix with their metrics."""
    return [_table(name, points) for name, points in stages.items() if any(found for _, found in points)]


def split_names(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Metric to (group, measure): `kd_accuracy` and `dkd_accuracy` are the accuracy of kd and dkd.

    A measure is the longest ending that several names share; a name that shares none is a measure itself.
    """
    endings: dict[str, set[str]] = defaultdict(set)
    for name in names:
        parts = name.split("_")
        for cut in range(1, len(parts)):
            endings["_".join(parts[cut:])].add("_".join(parts[:cut]))
    found = {}
    for name in names:
        parts = name.split("_")
        cuts = [cut for cut in range(1, len(parts)) if len(endings["_".join(parts[cut:])]) > 1]
        cut = cuts[0] if cuts else 0
        found[name] = ("_".join(parts[:cut]), "_".join(parts[cut:]))
    return found


def _table(title: str, points: Sequence[tuple[str, Mapping[str, float]]]) -> Numbers:
    places: dict[str, tuple[str, str]] = {}
    for _, found in points:
        places |= split_names([name for name in found if not _is_error(name, found)])
    cells: dict[str, dict[str, Cell]] = {}
    for point, found in points:
        for name, value in found.items():
            if name in places:
                group, measure = places[name]
                row = ", ".join(part for part in (point, group) if part)
                cells.setdefault(row, {})[measure] = Cell(value, found.get(f"{name}_se"))
    measures = list(dict.fromkeys(measure for _, measure in places.values()))
    columns = {measure: _scaled({row: of[measure] for row, of in cells.items() if measure in of})
               for measure in measures}  # fmt: skip
    rows = [(row, [columns[measure].get(row) for measure in measures]) for row in cells]
    return Numbers(title, measures, rows)


def _is_error(name: str, found: Mapping[str, float]) -> bool:
    return name.endswith("_se") and name.removesuffix("_se") in found


def _scaled(cells: Mapping[str, Cell]) -> dict[str, Cell]:
    ends = [cell.value + sign * (cell.error or 0.0) for cell in cells.values() for sign in (-1, 1)]
    low, width = min(ends), (max(ends) - min(ends)) or 1.0
    return {
        row: Cell(cell.value, cell.error, (cell.value - low) / width, (cell.error or 0.0) / width)
        for row, cell in cells.items()
    }
