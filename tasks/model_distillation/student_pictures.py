"""What a comparison of students has found, as pictures."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tasks.model_distillation.student_scores import BINS
from tasks.model_distillation.student_tables import Result, measures, pooled, standard_error
from tasks.pictures import OKABE_ITO, bars, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def accuracies(results: Sequence[Result]) -> bytes:
    """A bar a method: mean test accuracy with its standard error, and agreement with the teacher."""
    found = measures(results)
    series = {
        name: [_bar(by_name.get(name, [])) for by_name in found.values()]
        for name in ("accuracy", "agreement")
        if any(name in by_name for by_name in found.values())
    }
    return bars(list(found), series, title="Students on the test set", axis="share of the test images (%)")


def reliability(results: Sequence[Result]) -> bytes:
    """A panel a method: accuracy over confidence in bins; on the diagonal a student knows how sure it may be."""
    methods = list(dict.fromkeys(one.method for one in results))

    def painter(method: str) -> Callable[["Axes"], None]:
        def paint(axes: "Axes") -> None:
            counts, _, accuracy = pooled(results, method)
            middles = (np.arange(BINS) + 0.5) / BINS
            filled = counts > 0
            axes.bar(
                middles[filled],
                accuracy[filled],
                1 / BINS,
                color=OKABE_ITO[0],
                edgecolor="white",
                linewidth=0.6,
            )
            axes.plot([0, 1], [0, 1], "--", color="black", linewidth=1)
            error = np.mean([one.scores.ece for one in results if one.method == method])
            axes.set_title(f"{method}: ECE {100 * error:.1f} %", fontsize=10)
            axes.set_xlabel("confidence")
            axes.set_ylabel("accuracy")
            axes.set_xlim(0, 1)
            axes.set_ylim(0, 1)
            axes.set_aspect("equal")

        return paint

    return panels([painter(method) for method in methods], width=1 + 2.6 * len(methods), height=3.2)


def curves(results: Sequence[Result]) -> bytes:
    """Test accuracy over the epochs, the mean over the students of each method."""

    def paint(axes: "Axes") -> None:
        for method, colour in zip(dict.fromkeys(one.method for one in results), _colours(), strict=False):
            own = np.array([one.tested for one in results if one.method == method])
            epochs, mean = own.mean(axis=0).T
            axes.plot(epochs, 100 * mean, ".-", color=colour, label=method)
        axes.set_xlabel("epoch")
        axes.set_ylabel("test accuracy (%)")
        axes.grid(alpha=0.3)

    return panels([paint], width=7, height=4.5, legend=True)


def _colours() -> Sequence[str]:
    """Enough for every method there is; beyond seven they come again."""
    return OKABE_ITO * 4


def _bar(values: Sequence[float]) -> tuple[float, float | None] | None:
    percent = [100 * value for value in values]
    return (float(np.mean(percent)), standard_error(percent)) if percent else None
