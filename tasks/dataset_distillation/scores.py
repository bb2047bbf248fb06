"""From cells (one network trained on one set) to metrics, tables and a picture. Pure arithmetic."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from orchestrator.task import Facts, Json, ShardFiles
from tasks.nets import Network, resolve
from tasks.pictures import bars

Shape = tuple[int, int, int]

SETS = ("distilled", "random", "kmeans", "full")
"""Every set there is, in the order of the tables."""


def label_networks(networks: Sequence[Network], shape: Shape, classes: int) -> list[dict[str, Json]]:
    """The networks resolved for images (C,H,W), each with a `tag` that tells any two apart and a `label` for
    people: the name, or the tag where the name stands twice. ValueError where two are equal."""
    resolved = [resolve(network, shape, classes) for network in networks]
    tags = [_tag(network, resolve(Network(name=network.name), shape, classes)) for network in resolved]
    names = [network.name for network in resolved]
    twins = [tag for number, tag in enumerate(tags) if tag in tags[:number]]
    if twins:
        raise ValueError(f"networks: found {twins[0]} twice; expected each once: leave one out")
    labels = [tag if names.count(name) > 1 else name for tag, name in zip(tags, names, strict=True)]
    return [
        {"tag": tag, "label": label, "network": network.model_dump(mode="json")}
        for tag, label, network in zip(tags, labels, resolved, strict=True)
    ]


def _tag(network: Network, default: Network) -> str:
    """Such as convnet_w64_d3: name, width and depth, and whatever else is not the default."""
    values, usual = network.model_dump(exclude={"name"}), default.model_dump()
    size = [f"{name[0]}{values.pop(name)}" for name in ("width", "depth") if values[name] is not None]
    rest = [f"{name}_{value}" for name, value in values.items() if value not in (None, usual[name])]
    return "_".join([network.name, *size, *rest])


@dataclass(frozen=True)
class Group:
    """All cells of one set and one network; accuracies are fractions."""

    set: str
    network: str
    prefix: str
    """What stands before its metrics: nothing for the first network, else `label.`."""
    images_per_class: int | None
    """None for the full set, whose classes may differ in size."""
    accuracies: tuple[float, ...]
    best_accuracies: tuple[float, ...]

    @property
    def accuracy(self) -> float:
        return float(np.mean(self.accuracies))

    @property
    def error(self) -> float | None:
        """Standard error of the mean; None for a single cell."""
        count = len(self.accuracies)
        return float(np.std(self.accuracies, ddof=1)) / math.sqrt(count) if count > 1 else None

    @property
    def best_accuracy(self) -> float:
        return float(np.mean(self.best_accuracies))


def group_cells(facts: Facts, cells: Sequence[ShardFiles]) -> list[Group]:
    """Network after network, in each the sets that have a cell in the order of SETS."""
    groups = []
    for number, entry in enumerate(facts["networks"]):
        for name in SETS:
            of_set = {"set": name, "network": entry["tag"]}
            found = [cell for cell in cells if of_set.items() <= cell.identity.items()]
            if found:
                groups.append(
                    Group(
                        set=name,
                        network=entry["label"],
                        prefix=f"{entry['label']}." if number else "",
                        images_per_class=None if name == "full" else facts["images_per_class"],
                        accuracies=tuple(cell.metrics["accuracy"] for cell in found),
                        best_accuracies=tuple(cell.metrics["best_accuracy"] for cell in found),
                    )
                )
    return groups


def over_random(group: Group, groups: Sequence[Group]) -> float | None:
    """How far the set lies above as many random real images on the same network, as a fraction; None where
    there is nothing to compare."""
    random = [other for other in groups if (other.set, other.network) == ("random", group.network)]
    return group.accuracy - random[0].accuracy if random and group.set != "random" else None


def accuracy_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """`distilled_accuracy`, `distilled_accuracy_se`, `distilled_best_accuracy`, the same of each control, and
    `over_random`; of further networks under `label.`. Standard errors of single cells are left out."""
    metrics: dict[str, float | None] = {}
    for group in groups:
        name = f"{group.prefix}{group.set}"
        metrics[f"{name}_accuracy"] = group.accuracy
        metrics[f"{name}_accuracy_se"] = group.error
        metrics[f"{name}_best_accuracy"] = group.best_accuracy
        if group.set == "distilled":
            metrics[f"{group.prefix}over_random"] = over_random(group, groups)
    return {name: value for name, value in metrics.items() if value is not None}


def summary_table(groups: Sequence[Group]) -> pa.Table:
    """One row a group, accuracies in percent and `over_random` in percentage points, to two decimals."""
    rows = [
        {
            "set": group.set,
            "network": group.network,
            "images_per_class": group.images_per_class,
            "repeats": len(group.accuracies),
            "accuracy_%": _percent(group.accuracy),
            "se_%": _percent(group.error),
            "best_%": _percent(group.best_accuracy),
            "over_random": _percent(over_random(group, groups)),
        }
        for group in groups
    ]
    text, whole, number = pa.string(), pa.int64(), pa.float64()
    types = (text, text, whole, whole, number, number, number, number)
    return pa.Table.from_pylist(rows, pa.schema(list(zip(rows[0], types, strict=True))))


def _percent(fraction: float | None) -> float | None:
    return None if fraction is None else round(100 * fraction, 2)


def cell_table(facts: Facts, cells: Sequence[ShardFiles]) -> pa.Table:
    """One row a cell with all that it reports; accuracies are fractions."""
    labels = {entry["tag"]: entry["label"] for entry in facts["networks"]}
    return pa.Table.from_pylist([_row(cell, labels) for cell in cells])


def _row(cell: ShardFiles, labels: Mapping[str, str]) -> dict[str, Json]:
    identity = cell.identity
    network = labels[identity["network"]]
    where = {"set": identity["set"], "network": network, "repeat": identity["repeat"]}
    return {**where, **cell.metrics, **cell.facts}


def accuracy_picture(facts: Facts, groups: Sequence[Group]) -> bytes:
    """A bar chart of the accuracies at the last epoch, in percent, with their standard errors."""
    networks = list(dict.fromkeys(group.network for group in groups))
    cells = {(group.set, group.network): (group.accuracy, group.error) for group in groups}
    series = {
        name: [_bar(cells.get((name, network))) for network in networks]
        for name in SETS
        if any(group.set == name for group in groups)
    }
    title = (
        f"{facts['dataset']['name']}, {facts['images_per_class']} images a class (whiskers: standard error)"
    )
    return bars(networks, series, title=title, axis="test accuracy (%)")


def _bar(cell: tuple[float, float | None] | None) -> tuple[float, float | None] | None:
    if cell is None:
        return None
    accuracy, error = cell
    return 100 * accuracy, None if error is None else 100 * error
