"""The curve of a loss as a picture."""

from collections.abc import Sequence

from tasks.pictures import OKABE_ITO, png


def loss_curve(losses: Sequence[float], *, title: str, axis: str) -> bytes:
    """A PNG of one loss an iteration, with its running mean over a fiftieth of them."""
    window = max(1, len(losses) // 50)
    mean = [sum(losses[max(0, i + 1 - window) : i + 1]) / min(i + 1, window) for i in range(len(losses))]
    steps = range(1, len(losses) + 1)
    from matplotlib.figure import Figure  # slow to import, and a plan does without

    figure = Figure(figsize=(6.4, 3.6), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(steps, losses, color=OKABE_ITO[4], linewidth=0.6, label="each iteration")
    axes.plot(steps, mean, color=OKABE_ITO[0], linewidth=1.6, label=f"mean of {window}")
    axes.set_xlabel("iteration")
    axes.set_ylabel(axis)
    axes.set_title(title, fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(linewidth=0.4, alpha=0.6)
    axes.legend(frameon=False)
    return png(figure)
