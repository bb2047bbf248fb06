import io
import math
from dataclasses import dataclass, field

import numpy as np
import pytest
from PIL import Image

from tasks.dataset_distillation.scores import (
    accuracy_metrics,
    accuracy_picture,
    cell_table,
    group_cells,
    label_networks,
    summary_table,
)
from tasks.nets import Network


@dataclass
class Cell:
    """What close() sees of a cell."""

    identity: dict
    metrics: dict
    facts: dict = field(default_factory=lambda: {"best_epoch": 3, "images": 20})


NETWORKS = label_networks([Network(width=8), Network(name="resnet18", width=8)], (1, 28, 28), 10)
FACTS = {"networks": NETWORKS, "images_per_class": 2, "dataset": {"name": "digits"}}
ACCURACIES = {
    ("distilled", 0): [0.71, 0.74, 0.70],
    ("random", 0): [0.41, 0.38, 0.45],
    ("full", 0): [0.95],
    ("distilled", 1): [0.51, 0.56],
}


def cells():
    return [
        Cell(
            {"set": name, "network": NETWORKS[network]["tag"], "repeat": repeat},
            {"accuracy": value, "best_accuracy": value + 0.01},
        )
        for (name, network), values in ACCURACIES.items()
        for repeat, value in enumerate(values)
    ]


def test_metrics_have_the_names_and_values_of_the_design():
    metrics = accuracy_metrics(group_cells(FACTS, cells()))
    distilled, random = np.array(ACCURACIES["distilled", 0]), np.array(ACCURACIES["random", 0])
    expected = {
        "distilled_accuracy": distilled.mean(),
        "distilled_accuracy_se": distilled.std(ddof=1) / math.sqrt(3),
        "distilled_best_accuracy": distilled.mean() + 0.01,
        "random_accuracy": random.mean(),
        "random_accuracy_se": random.std(ddof=1) / math.sqrt(3),
        "random_best_accuracy": random.mean() + 0.01,
        "over_random": distilled.mean() - random.mean(),
        "full_accuracy": 0.95,
        "full_best_accuracy": 0.96,
        "resnet18.distilled_accuracy": 0.535,
        "resnet18.distilled_accuracy_se": 0.025,
        "resnet18.distilled_best_accuracy": 0.545,
    }
    assert metrics == pytest.approx(expected)


def test_the_summary_has_a_row_a_set_and_network_in_percent():
    rows = summary_table(group_cells(FACTS, cells())).to_pylist()
    assert [(row["network"], row["set"]) for row in rows] == [
        ("convnet", "distilled"),
        ("convnet", "random"),
        ("convnet", "full"),
        ("resnet18", "distilled"),
    ]
    assert rows[0] == {
        "set": "distilled",
        "network": "convnet",
        "images_per_class": 2,
        "repeats": 3,
        "accuracy_%": 71.67,
        "se_%": 1.2,
        "best_%": 72.67,
        "over_random": 30.33,
    }
    assert rows[1]["over_random"] is None
    assert rows[2]["se_%"] is None
    assert rows[2]["images_per_class"] is None
    assert rows[2]["over_random"] == 53.67
    assert rows[3]["over_random"] is None


def test_a_table_without_any_number_keeps_its_types():
    alone = [cell for cell in cells() if cell.identity["set"] == "full"]
    table = summary_table(group_cells(FACTS, alone))
    assert [str(kind) for kind in table.schema.types] == ["string"] * 2 + ["int64"] * 2 + ["double"] * 4


def test_the_cell_table_has_every_cell_with_what_it_reports():
    rows = cell_table(FACTS, cells()).to_pylist()
    assert len(rows) == 9
    assert rows[0] == {
        "set": "distilled",
        "network": "convnet",
        "repeat": 0,
        "accuracy": 0.71,
        "best_accuracy": 0.72,
        "best_epoch": 3,
        "images": 20,
    }


def test_networks_of_one_name_get_distinct_labels_that_say_how_they_differ():
    asked = [Network(width=64), Network(width=32), Network(width=32, norm="none"), Network(name="mlp")]
    found = label_networks(asked, (3, 32, 32), 10)
    labels = [entry["label"] for entry in found]
    assert labels == ["convnet_w64_d3", "convnet_w32_d3", "convnet_w32_d3_norm_none", "mlp"]
    assert [entry["tag"] for entry in found] == [*labels[:3], "mlp_w128_d3"]
    assert found[0]["network"] == {"name": "convnet", "width": 64, "depth": 3, "norm": "instance"}


def test_a_network_named_twice_is_refused():
    with pytest.raises(ValueError, match=r"networks: found convnet_w128_d3 twice.*leave one out"):
        label_networks([Network(), Network(depth=3)], (3, 32, 32), 10)


def test_the_picture_names_dataset_and_unit_and_decodes():
    png = accuracy_picture(FACTS, group_cells(FACTS, cells()))
    with Image.open(io.BytesIO(png)) as picture:
        assert picture.width >= 600
        assert picture.height >= 400
