"""What a sweep has found, as pictures."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tasks.ensloss.significance import Comparison, Verdict, counts
from tasks.ensloss.sweep_cells import Result
from tasks.pictures import OKABE_ITO, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SHADES: Mapping[Verdict, str] = {"better": OKABE_ITO[0], "no difference": "#BBBBBB", "worse": OKABE_ITO[5]}


def win_loss(comparisons: Sequence[Comparison], reference: str, alpha: float) -> bytes:
    """A bar for each network and other loss: on how many datasets the reference is better, not different, worse."""
    groups = list(dict.fromkeys((one.network, one.lr, one.against) for one in comparisons))
    several = len({lr for _, lr, _ in groups}) > 1
    names = [
        f"{network}{f', lr {lr:g}' if several else ''}: against {against}" for network, lr, against in groups
    ]
    families = [
        [one for one in comparisons if (one.network, one.lr, one.against) == group] for group in groups
    ]
    found = [counts(family, alpha) for family in families]

    def paint(axes: "Axes") -> None:
        left = np.zeros(len(groups))
        for verdict, colour in _SHADES.items():
            width = np.array([count[verdict] for count in found])
            bars = axes.barh(
                names, width, left=left, color=colour, edgecolor="white", label=f"{reference}: {verdict}"
            )
            axes.bar_label(bars, [str(n) if n else "" for n in width], label_type="center", color="black")
            left += width
        axes.invert_yaxis()
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel(f"datasets (one-sided paired t-tests, level {alpha:g})")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)

    return panels([paint], width=8, height=1.6 + 0.4 * len(groups))


def overfitting(results: Sequence[Result]) -> bytes:
    """A panel for each network: accuracy on training and test samples over the epochs, mean over all cells."""
    networks = list(dict.fromkeys(result.cell.network for result in results))
    losses = list(dict.fromkeys(result.cell.loss for result in results))

    def painter(network: str) -> Callable[["Axes"], None]:
        def paint(axes: "Axes") -> None:
            for loss, colour in zip(losses, OKABE_ITO, strict=False):
                own = [one for one in results if (one.cell.network, one.cell.loss) == (network, loss)]
                for curve, line in (("train_curve", "--"), ("test_curve", "-")):
                    epochs, means = _mean_curve(own, curve)
                    kind = curve.partition("_")[0]
                    axes.plot(epochs, means, line, color=colour, label=f"{loss}, {kind}")
            axes.set_title(network)
            axes.set_xlabel("epoch")
            axes.set_ylabel("accuracy (%), mean over cells")
            axes.grid(alpha=0.3)

        return paint

    return panels(
        [painter(network) for network in networks], width=2.5 + 4 * len(networks), height=5, legend=True
    )


def _mean_curve(results: Sequence[Result], curve: str) -> tuple[list[int], list[float]]:
    """Epochs that all of them were tested at, and the mean accuracies there in percent."""
    epochs = sorted(set.intersection(*(set(result.epochs) for result in results)))
    at = [dict(zip(result.epochs, getattr(result, curve), strict=True)) for result in results]
    return epochs, [100 * float(np.mean([own[epoch] for own in at])) for epoch in epochs]
