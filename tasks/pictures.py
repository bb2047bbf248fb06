"""Pictures as PNG bytes: grids of images, bar charts. No display, no global state, always the same bytes."""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
"""Colours that stay apart for colour-blind readers (Okabe and Ito, Color Universal Design)."""
HATCHES = ("", "//", "..", "xx", "\\\\", "++", "oo")

_TILE = 64
_LONGEST_SIDE = 2048
_GAP = 2
_GREY = 128


def grid(images: np.ndarray, columns: int) -> bytes:
    """A PNG of uint8 images (N,C,H,W) in rows of `columns`, small ones enlarged by whole factors.

    One channel is drawn grey, three as RGB; of any other number the mean is drawn grey. ValueError for
    another shape or type, no image at all, or fewer than one column.
    """
    if images.ndim != 4 or images.dtype != np.uint8 or not len(images):
        raise ValueError(f"a grid needs uint8 images (N,C,H,W), found {images.dtype} {images.shape}")
    if columns < 1:
        raise ValueError(f"a grid needs at least one column, found {columns}")
    factor = _enlargement(images.shape, columns)
    tiles = _rgb(images).repeat(factor, axis=1).repeat(factor, axis=2)
    height, width = tiles.shape[1] + _GAP, tiles.shape[2] + _GAP
    rows, columns = -(-len(tiles) // columns), min(columns, len(tiles))
    canvas = np.full((rows * height + _GAP, columns * width + _GAP, 3), _GREY, np.uint8)
    for index, tile in enumerate(tiles):
        top, left = index // columns * height + _GAP, index % columns * width + _GAP
        canvas[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    buffer = io.BytesIO()
    Image.fromarray(canvas).save(buffer, format="PNG")
    return buffer.getvalue()


def _rgb(images: np.ndarray) -> np.ndarray:
    """(N,C,H,W) to (N,H,W,3)."""
    if images.shape[1] != 3:
        images = images.mean(axis=1, keepdims=True).round().astype(np.uint8).repeat(3, axis=1)
    return images.transpose(0, 2, 3, 1)


def _enlargement(shape: tuple[int, ...], columns: int) -> int:
    """Whole factor that brings a tile near 64 pixels, less where the picture would pass 2048 on a side."""
    count, _, height, width = shape
    longest = max(min(columns, count) * width, -(-count // columns) * height)
    return max(1, min(round(_TILE / max(height, width)), _LONGEST_SIDE // longest))


def bars(
    groups: Sequence[str],
    series: Mapping[str, Sequence[tuple[float, float | None] | None]],
    *,
    title: str,
    axis: str,
) -> bytes:
    """A PNG of grouped bars with error whiskers, the value over each bar.

    `series` maps a legend name to one (height, half length of the whisker or None) a group; None draws no
    bar. `axis` names the vertical axis with its unit.
    """
    from matplotlib.figure import Figure  # slow to import, and a plan does without

    figure = Figure(
        figsize=(max(5.0, 1.2 + 0.9 * len(groups) * len(series)), 4.2), dpi=120, layout="constrained"
    )
    axes = figure.add_subplot()
    width = 0.8 / len(series)
    for number, (name, cells) in enumerate(series.items()):
        drawn = [(place, *cell) for place, cell in enumerate(cells) if cell is not None]
        at = [place + (number - (len(series) - 1) / 2) * width for place, _, _ in drawn]
        bar = axes.bar(
            at,
            [height for _, height, _ in drawn],
            width * 0.92,
            yerr=[np.nan if error is None else error for _, _, error in drawn],
            label=name,
            color=OKABE_ITO[number % len(OKABE_ITO)],
            hatch=HATCHES[number % len(HATCHES)],
            edgecolor="black",
            linewidth=0.6,
            error_kw={"capsize": 4, "elinewidth": 1.2},
        )
        axes.bar_label(bar, fmt="{:.1f}", padding=3, fontsize=9)
    axes.set_xticks(range(len(groups)), groups)
    axes.set_ylabel(axis)
    axes.set_title(title, fontsize=11)
    axes.margins(y=0.15)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", linewidth=0.4, alpha=0.6)
    axes.set_axisbelow(True)
    figure.legend(loc="outside lower center", ncols=min(4, len(series)), frameon=False)
    return png(figure)


def panels(
    painters: Sequence[Callable[["Axes"], None]], *, width: float, height: float, legend: bool = False
) -> bytes:
    """A PNG of panels side by side, each drawn by one of `painters`; sizes in inches. With `legend` the entries
    of the first panel stand below all of them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    for axes, paint in zip(figure.subplots(1, len(painters), squeeze=False)[0], painters, strict=True):
        paint(axes)
        axes.spines[["top", "right"]].set_visible(False)
    if legend:
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside lower center", ncols=max(1, int(width / 2.5)), frameon=False
        )
    return png(figure)


def png(figure: "Figure") -> bytes:
    """The figure as PNG bytes that name no software version."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()
