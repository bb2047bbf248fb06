"""What a sweep has found, as tables and metrics."""

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa

from tasks.ensloss.significance import Comparison, corrected, counts, paired_p_values
from tasks.ensloss.sweep_cells import Cell, Result

REFERENCE = "ensloss"


def compare(results: Sequence[Result]) -> list[Comparison]:
    """The reference, which is EnsLoss or else the first loss, against each other loss on every dataset.

    Holm's correction runs over the datasets of one network, learning rate and other loss.
    """
    losses = list(dict.fromkeys(result.cell.loss for result in results))
    reference = REFERENCE if REFERENCE in losses else losses[0]
    accuracies = {result.cell: result.test_accuracy for result in results}
    settings = dict.fromkeys((cell.network, cell.lr) for cell in accuracies)
    datasets = dict.fromkeys(cell.dataset for cell in accuracies)
    found: list[Comparison] = []
    for network, lr in settings:
        for against in losses:
            if against != reference:
                each = [_pairs(accuracies, dataset, network, lr, reference, against) for dataset in datasets]
                family = [
                    Comparison(dataset, network, lr, against, float(np.mean(pairs)), *paired_p_values(pairs))
                    for dataset, pairs in zip(datasets, each, strict=True)
                    if pairs
                ]
                found += corrected(family)
    return found


def _pairs(
    accuracies: Mapping[Cell, float], dataset: str, network: str, lr: float, reference: str, against: str
) -> list[float]:
    own = [
        cell
        for cell in accuracies
        if (cell.dataset, cell.network, cell.lr, cell.loss) == (dataset, network, lr, reference)
    ]
    other = {cell.repeat: Cell(dataset, network, lr, against, cell.repeat) for cell in own}
    return [
        accuracies[cell] - accuracies[other[cell.repeat]] for cell in own if other[cell.repeat] in accuracies
    ]


def cell_table(results: Sequence[Result]) -> pa.Table:
    """One row a cell; accuracies and areas are fractions."""
    return pa.Table.from_pylist([result.row() for result in results])


def curve_table(results: Sequence[Result]) -> pa.Table:
    """One row a cell and test: the epoch, and the accuracies on training and test samples, fractions."""
    rows = [
        {
            **_where(result.cell),
            "repeat": result.cell.repeat,
            "epoch": epoch,
            "train_accuracy": train,
            "test_accuracy": test,
        }
        for result in results
        for epoch, train, test in zip(result.epochs, result.train_curve, result.test_curve, strict=True)
    ]
    return pa.Table.from_pylist(rows)


def score_table(results: Sequence[Result]) -> pa.Table:
    """One row a dataset, network, learning rate and loss: mean test accuracy and its standard error, in percent."""
    rows = []
    for _, group in groupby(sorted(results, key=_group), key=_group):
        own = list(group)
        accuracies = [100 * result.test_accuracy for result in own]
        areas = [result.test_auc for result in own if result.test_auc is not None]
        rows.append(
            {
                **_where(own[0].cell),
                "repeats": len(own),
                "accuracy_%": float(np.mean(accuracies)),
                "se_%": standard_error(accuracies),
                "train_%": float(np.mean([100 * result.train_accuracy for result in own])),
                "auc": float(np.mean(areas)) if areas else None,
            }
        )
    return pa.Table.from_pylist(rows)


def comparison_table(comparisons: Sequence[Comparison], alpha: float) -> pa.Table:
    """One row a comparison with its p-values, plain and corrected, and the verdicts at level `alpha`."""
    return pa.Table.from_pylist(
        [
            {
                "dataset": one.dataset, "network": one.network, "lr": one.lr, "against": one.against,
                "difference_%": 100 * one.difference, "p_better": one.p_better, "p_worse": one.p_worse,
                "verdict": one.verdict(alpha), "holm_better": one.holm_better, "holm_worse": one.holm_worse,
                "holm_verdict": one.verdict(alpha, holm=True),
            }
            for one in comparisons
        ]
    )  # fmt: skip


def summary_table(results: Sequence[Result], comparisons: Sequence[Comparison], alpha: float) -> pa.Table:
    """One row a network, learning rate and loss: the mean over datasets, in percent, and on how many datasets the
    reference is better, not different, or worse, plain and after Holm's correction."""
    rows = []
    for (network, lr, loss), mean in mean_accuracies(results).items():
        family = [one for one in comparisons if (one.network, one.lr, one.against) == (network, lr, loss)]
        rows.append(
            {
                "network": network,
                "lr": lr,
                "loss": loss,
                "accuracy_%": round(100 * mean, 2),
                "better-no diff-worse": "-".join(map(str, counts(family, alpha).values())) if family else "",
                "after Holm": "-".join(map(str, counts(family, alpha, holm=True).values())) if family else "",
            }
        )
    return pa.Table.from_pylist(rows)


def mean_accuracies(results: Sequence[Result]) -> dict[tuple[str, float, str], float]:
    """(network, learning rate, loss) to the mean over datasets of the mean over repeats, a fraction."""
    by: dict[tuple[str, float, str], dict[str, list[float]]] = {}
    for result in results:
        cell = result.cell
        by.setdefault((cell.network, cell.lr, cell.loss), {}).setdefault(cell.dataset, []).append(
            result.test_accuracy
        )
    return {key: float(np.mean([np.mean(values) for values in sets.values()])) for key, sets in by.items()}


def sweep_metrics(results: Sequence[Result]) -> dict[str, float]:
    """`LOSS_accuracy`, the mean over all networks, rates and datasets, and `NETWORK.LOSS_accuracy` where there are
    several networks; `over_LOSS`, how far the reference lies above, as a fraction."""
    means = mean_accuracies(results)
    losses = list(dict.fromkeys(loss for _, _, loss in means))
    networks = list(dict.fromkeys(network for network, _, _ in means))
    overall = {loss: _mean(value for (_, _, own), value in means.items() if own == loss) for loss in losses}
    metrics = {f"{loss}_accuracy": value for loss, value in overall.items()}
    if len(networks) > 1:
        metrics |= {
            f"{network}.{loss}_accuracy": _mean(
                value for (of, _, own), value in means.items() if (of, own) == (network, loss)
            )
            for network in networks
            for loss in losses
        }
    reference = REFERENCE if REFERENCE in losses else losses[0]
    over = {f"over_{loss}": overall[reference] - overall[loss] for loss in losses if loss != reference}
    return metrics | over


def standard_error(values: Sequence[float]) -> float | None:
    """Of the mean; None for a single value."""
    return float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else None


def _mean(values: Any) -> float:
    return float(np.mean(list(values)))


def _where(cell: Cell) -> dict[str, Any]:
    return {"dataset": cell.dataset, "network": cell.network, "lr": cell.lr, "loss": cell.loss}


def _group(result: Result) -> tuple[str, str, float, str]:
    cell = result.cell
    return cell.dataset, cell.network, cell.lr, cell.loss
