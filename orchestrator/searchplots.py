"""Two pictures of a search: the metric from trial to trial, and parallel coordinates. PNG, no display needed.

Each is drawn on light or on dark paper, with colours that are seen there.
"""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.search import Distribution, Search, better
from orchestrator.task import Json
from orchestrator.trials import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Paper:
    """What a picture is drawn on, and with."""

    ground: str
    ink: str
    done: str
    best: str
    soft: str
    tones: tuple[float, float]
    """The part of the colours viridis that is used, from the worst to the best."""


LIGHT = Paper("#ffffff", "#1d2327", "#0072b2", "#d55e00", "#8a949c", (0.88, 0.0))
DARK = Paper("#1c2226", "#e8ebed", "#56b4e9", "#ff8a3d", "#9aa6af", (0.22, 1.0))
"""The grounds are those of the report's cards; blue and orange, after Okabe and Ito, are told apart by people who
confuse red and green."""


def history(rows: Sequence[Row], search: Search, paper: Paper = LIGHT) -> bytes:
    """The metric of each trial by its number, and the best so far."""
    from matplotlib.ticker import MaxNLocator

    figure, axes = _figure(7.0, paper)
    done = sorted((row for row in rows if row.state == "done"), key=lambda row: row.number)
    stopped = [row for row in rows if row.state == "stopped" and row.metric is not None]
    axes.plot([row.number for row in done], _metrics(done), "o", color=paper.done, label="done")
    if stopped:
        numbers = [row.number for row in stopped]
        axes.plot(numbers, _metrics(stopped), "x", color=paper.soft, label="stopped early")
    best: list[float] = []
    for value in _metrics(done):
        best.append(value if not best or better(search.mode, value, best[-1]) else best[-1])
    axes.step([row.number for row in done], best, where="post", color=paper.best, label="best so far")
    axes.set_xlabel("trial")
    axes.set_ylabel(search.metric)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, labelcolor=paper.ink)
    return _png(figure)


def parallel(rows: Sequence[Row], search: Search, paper: Paper = LIGHT) -> bytes:
    """A line a trial through one axis a setting, coloured by the metric; the best is drawn thick."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    dimensions = search.dimensions
    done = [row for row in rows if row.state == "done"]
    values = _metrics(done)
    figure, axes = _figure(max(7.0, 1.8 * (len(dimensions) + 1)), paper)
    tones = _tones(paper, search.mode)
    colours = Normalize(min(values), max(values) if max(values) > min(values) else min(values) + 1e-9)
    order = sorted(done, key=lambda row: _metrics([row])[0], reverse=search.mode == "min")
    for row in order:
        heights = [_height(one, row.point[name]) for name, one in dimensions.items()]
        heights.append(float(colours(_metrics([row])[0])))
        width = 3.0 if row is order[-1] else 1.2
        axes.plot(heights, color=tones(heights[-1]), linewidth=width)
    for place, one in enumerate(dimensions.values()):
        _axis(axes, place, one, paper)
    axes.set_xticks(range(len(dimensions) + 1), [*dimensions, search.metric], rotation=15, ha="right")
    axes.set_yticks([])
    axes.set_ylim(-0.05, 1.05)
    for side in ("left", "right", "top", "bottom"):
        axes.spines[side].set_visible(False)
    bar = figure.colorbar(ScalarMappable(colours, tones), ax=axes, label=search.metric)
    _inked(bar.ax, paper)
    return _png(figure)


def _tones(paper: Paper, mode: str) -> "Colormap":
    """From the lowest value of the metric to the highest; the best stands out most."""
    from matplotlib import colormaps
    from matplotlib.colors import LinearSegmentedColormap

    worst, best = paper.tones
    low, high = (worst, best) if mode == "max" else (best, worst)
    return LinearSegmentedColormap.from_list(
        "tones", [colormaps["viridis"](low + (high - low) * step / 63) for step in range(64)]
    )


def _axis(axes: "Axes", place: int, one: Distribution, paper: Paper) -> None:
    """A vertical line with the values at its ends, or all of them where they are listed."""
    axes.axvline(place, color=paper.soft, linewidth=0.8, zorder=0)
    for value in one.values if one.values is not None else one.ends:
        axes.text(place + 0.03, _height(one, value), _shown(value), fontsize=8, va="center", color=paper.ink)


def _height(one: Distribution, value: Json) -> float:
    """Where a value lies on its axis, from 0 to 1."""
    if one.values is not None:
        return one.values.index(value) / max(1, len(one.values) - 1)
    low, high, at = (float(number) for number in (*one.ends, value))
    if one.log:
        low, high, at = math.log(low), math.log(high), math.log(at)
    return (at - low) / (high - low)


def _shown(value: Json) -> str:
    return f"{value:.4g}" if isinstance(value, float) else f"{value}"[:24]


def _metrics(rows: Sequence[Row]) -> list[float]:
    return [row.metric for row in rows if row.metric is not None]


def _figure(width: float, paper: Paper) -> "tuple[Figure, Axes]":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, 4.2), layout="constrained", facecolor=paper.ground)
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    _inked(axes, paper)
    return figure, axes


def _inked(axes: "Axes", paper: Paper) -> None:
    """Frame, ticks and names in the paper's ink."""
    axes.set_facecolor(paper.ground)
    axes.tick_params(colors=paper.ink)
    for part in (axes.xaxis.label, axes.yaxis.label):
        part.set_color(paper.ink)
    for spine in axes.spines.values():
        spine.set_edgecolor(paper.ink)


def _png(figure: Any) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=120)
    return out.getvalue()
