"""The lineage as a drawn graph, from the data on the left to the final numbers on the right. Pure."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from orchestrator.report.svg import picture, tag

_WIDTH, _GAP, _ROW, _PAD = 200.0, 36.0, 16.0, 9.0
_TITLE, _LETTERS = 22, 25
"""Letters that fit into a row: bold ones, and others."""


@dataclass(frozen=True)
class Box:
    """One thing in the graph."""

    id: str
    kind: str
    """data, made, cached or numbers."""
    lines: tuple[str, ...]
    """The first is its title."""
    sources: tuple[str, ...]
    """Ids of what it was made from."""

    @property
    def title(self) -> list[str]:
        """The rows of its title."""
        return _wrapped(self.lines[0], _TITLE)

    @property
    def rows(self) -> list[str]:
        """All rows of its text."""
        return [*self.title, *(row for line in self.lines[1:] for row in _wrapped(line, _LETTERS))]

    @property
    def height(self) -> float:
        return _ROW * len(self.rows) + 2 * _PAD


def layers(boxes: Sequence[Box]) -> list[list[Box]]:
    """The boxes by how many steps they are from the data; within a layer near to what they come from."""
    known, depth = {box.id: box for box in boxes}, dict[str, int]()

    def depth_of(box: Box) -> int:
        if box.id not in depth:
            below = [depth_of(known[source]) for source in box.sources if source in known]
            depth[box.id] = 1 + max(below, default=-1)
        return depth[box.id]

    found: dict[int, list[Box]] = defaultdict(list)
    for box in boxes:
        found[depth_of(box)].append(box)
    place: dict[str, float] = {}
    ordered = []
    for level in sorted(found):
        layer = sorted(found[level], key=lambda box: _mean(place.get(source, 0.0) for source in box.sources))
        place |= {box.id: number / len(layer) for number, box in enumerate(layer)}
        ordered.append(layer)
    return ordered


def draw(boxes: Sequence[Box]) -> Markup:
    """One drawing; longer texts wrap within their boxes."""
    columns = layers(boxes)
    heights = [sum(box.height + 14 for box in column) for column in columns]
    tall = max(heights)
    places: dict[str, tuple[float, float]] = {}
    for number, (column, height) in enumerate(zip(columns, heights, strict=True)):
        y = (tall - height) / 2 + 7
        for box in column:
            places[box.id] = 4 + number * (_WIDTH + _GAP), y
            y += box.height + 14
    known = {box.id: box for box in boxes}
    edges = [_edge(known[source], box, places) for box in boxes for source in box.sources if source in known]
    drawn = [_box(box, *places[box.id]) for box in boxes]
    width = 8 + len(columns) * (_WIDTH + _GAP) - _GAP
    return picture(
        width, tall, "Lineage: from the data on the left to the final numbers on the right", [*edges, *drawn]
    )


def _edge(source: Box, target: Box, places: Mapping[str, tuple[float, float]]) -> Markup:
    x1, y1 = places[source.id][0] + _WIDTH, places[source.id][1] + source.height / 2
    x2, y2 = places[target.id][0], places[target.id][1] + target.height / 2
    bend = (x2 - x1) / 2
    return tag("path", d=f"M{x1:.1f},{y1:.1f}C{x1 + bend:.1f},{y1:.1f} {x2 - bend:.1f},{y2:.1f} {x2:.1f},{y2:.1f}",
               class_="edge")  # fmt: skip


def _box(box: Box, x: float, y: float) -> Markup:
    frame = tag("rect", x=x, y=y, width=_WIDTH, height=box.height, rx=14 if box.kind == "data" else 5)
    title = len(box.title)
    rows = [
        tag(
            "text",
            row,
            x=x + 10,
            y=y + _PAD + _ROW * number + 12,
            class_="title" if number < title else "more",
        )
        for number, row in enumerate(box.rows)
    ]
    return tag("g", frame, *rows, class_=f"box {box.kind}")


def _wrapped(text: str, letters: int) -> list[str]:
    """Rows of at most so many letters, broken behind a space or a sign where there is one."""
    rows = [""]
    for part in re.findall(r"[^ _=,/]*[ _=,/]|[^ _=,/]+$", text):
        for start in range(0, len(part), letters):
            piece = part[start : start + letters]
            if rows[-1] and len(rows[-1] + piece.rstrip()) > letters:
                rows.append("")
            rows[-1] += piece
    return [row.rstrip() for row in rows]


def _mean(values: Iterable[float]) -> float:
    known = list(values)
    return sum(known) / len(known) if known else 0.0
