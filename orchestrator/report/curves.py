"""Curves of what shards logged: one drawing a metric, a line a shard, a cross where one was cut short. Pure."""

import json
import math
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

from orchestrator.mlflow_names import shorten
from orchestrator.report.subject import Subject, split_name
from orchestrator.report.svg import picture, tag

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 380.0, 236.0, 62.0, 14.0, 12.0, 42.0
_POINTS = 200
_LETTERS = 80
"""Of a line's name."""
COLOURS = 7
"""Of the palette in style.css; further lines repeat them, dashed."""
Points = Sequence[tuple[int, float]]


@dataclass(frozen=True)
class Line:
    """One shard's curve."""

    label: str
    points: Points
    cut_short: bool = False


@dataclass(frozen=True)
class Chart:
    """One metric of one stage."""

    stage: str
    metric: str
    lines: Sequence[Line]
    drawing: Markup

    @property
    def legend(self) -> Sequence[tuple[int, Line]]:
        """Lines with the number of their colour, where they are few enough to be told apart."""
        shown = list(enumerate(self.lines))
        return shown if 1 < len(shown) <= 2 * COLOURS else [one for one in shown if one[1].cut_short]


def charts(subject: Subject) -> list[Chart]:
    """All curves of a run, the points of a matrix together."""
    lines: dict[tuple[str, str], list[Line]] = defaultdict(list)
    for stage in subject.stages:
        several = stage.planned > 1
        for shard in stage.shards:
            if shard.history is None:
                continue
            called = stage.called(shard)
            label = ", ".join(part for part in (stage.point, called if several else "") if part)
            for name, points in _series(json.loads(subject.store.read_blob(shard.history.digest))).items():
                lines[stage.base, name].append(Line(label or called, points))
    for (name, shard_label), curve in subject.cut_short.items():
        base, point = split_name(name)
        label = ", ".join(part for part in (point, shard_label) if part)
        for metric, points in curve.items():
            lines[base, metric].append(Line(label, points, cut_short=True))
    return [
        _chart(stage, metric, found)
        for (stage, metric), found in lines.items()
        if any(len(line.points) > 1 or line.cut_short for line in found)
    ]


def _chart(stage: str, metric: str, lines: Sequence[Line]) -> Chart:
    told = apart([line.label for line in lines])
    named = [replace(line, label=label) for line, label in zip(lines, told, strict=True)]
    return Chart(stage, metric, named, draw(f"{metric} of {stage} over steps", metric, named))


def apart(labels: Sequence[str]) -> list[str]:
    """Labels without the parts that all of them share, cut where they are long: what tells them apart."""
    parts = [dict.fromkeys(re.split(r",\s*", label)) for label in labels]
    shared = set(parts[0]).intersection(*parts) if len(labels) > 1 else set[str]()
    told = [", ".join(part for part in own if part not in shared) for own in parts]
    return [shorten(short or label, _LETTERS) for short, label in zip(told, labels, strict=True)]


def draw(label: str, metric: str, lines: Sequence[Line]) -> Markup:
    """The lines over their steps; the axis of values is logarithmic where they span more than two decades."""
    steps = [step for line in lines for step, _ in line.points]
    values = [value for line in lines for _, value in line.points if math.isfinite(value)] or [0.0]
    log = min(values) > 0 and max(values) > 100 * min(values)
    across = _Axis(min(steps), max(steps), _LEFT, _WIDTH - _RIGHT, False)
    up = _Axis(min(values), max(values), _HEIGHT - _BOTTOM, _TOP, log)
    parts = [*_frame(across, up, f"{measure(metric)}{', log' if log else ''}")]
    faint = " many" if len(lines) > 2 * COLOURS else ""
    for number, line in enumerate(lines):
        points = [
            (across.at(step), up.at(value)) for step, value in thinned(line.points) if math.isfinite(value)
        ]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        style = f"line c{number % COLOURS}{' dashed' if number % (2 * COLOURS) >= COLOURS else ''}{faint}"
        parts.append(tag("polyline", tag("title", line.label), points=path, class_=style))
        if line.cut_short and points:
            x, y = points[-1]
            cross = f"M{x - 5:.1f},{y - 5:.1f}l10,10m0,-10l-10,10"
            parts.append(tag("path", tag("title", line.label), d=cross, class_="cross"))
    return picture(_WIDTH, _HEIGHT, label, parts)


_UNITS = {"s": "s", "ms": "ms", "bytes": "bytes", "gb": "GB", "mb": "MB", "nats": "nats", "bits": "bits"}


def measure(metric: str) -> str:
    """A metric's name for people, its unit set apart: `step_ms` is `step (ms)`."""
    *words, last = metric.replace(".", " ").split("_")
    if words and last in _UNITS:
        return f"{' '.join(words)} ({_UNITS[last]})"
    return " ".join([*words, last])


def thinned(points: Points) -> Points:
    """At most so many points that a drawing can show, the last among them."""
    every = -(-len(points) // _POINTS)
    return [*points[::every], *([points[-1]] if every > 1 else [])]


def ticks(low: float, high: float, log: bool) -> list[float]:
    """A few round numbers between two values; powers of ten on a logarithmic axis."""
    if log:
        return [10.0**power for power in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)]
    raw = (high - low) / 5
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [count * step for count in range(first, math.floor(high / step + 1e-9) + 1)]


class _Axis:
    """From values to places."""

    def __init__(self, low: float, high: float, start: float, end: float, log: bool) -> None:
        if high <= low:
            low, high = low - (abs(low) or 1.0) / 2, high + (abs(high) or 1.0) / 2
        self.low, self.high, self.start, self.end, self.log = low, high, start, end, log

    def at(self, value: float) -> float:
        low, high = (math.log(one) if self.log else one for one in (self.low, self.high))
        share = ((math.log(value) if self.log else value) - low) / (high - low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        return ticks(self.low, self.high, self.log)


def _frame(across: _Axis, up: _Axis, name: str) -> list[Markup]:
    parts = []
    for value in up.ticks():
        y = up.at(value)
        parts.append(tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y, y2=y, class_="rule"))
        parts.append(tag("text", f"{value:.4g}", x=_LEFT - 6, y=y + 4, class_="tick end"))
    for value in (one for one in across.ticks() if abs(one - round(one)) < 1e-9):
        parts.append(
            tag("text", f"{value:.4g}", x=across.at(value), y=_HEIGHT - _BOTTOM + 16, class_="tick middle")
        )
    bottom = _HEIGHT - _BOTTOM
    parts.append(tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=bottom, y2=bottom, class_="axis"))
    parts.append(tag("text", "step", x=(_LEFT + _WIDTH - _RIGHT) / 2, y=_HEIGHT - 6, class_="name middle"))
    middle = (_TOP + bottom) / 2
    turned = f"rotate(-90 12 {middle:g})"
    parts.append(tag("text", name, x=12.0, y=middle, transform=turned, class_="name middle"))
    return parts


def _series(history: Sequence[dict[str, object]]) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for entry in history:
        values = entry["values"]
        assert isinstance(values, dict)
        for name, value in values.items():
            found[name].append((int(str(entry["step"])), float(value)))
    return found
