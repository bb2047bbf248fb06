"""Every table of the folder `tabular_binary`, where the data folder of this machine holds it."""

import json
from pathlib import Path

import pytest
import torch

from tasks.binary import BinaryDataset

FOLDER = Path("~/.cache/limbeck/data/tabular_binary").expanduser()
META = json.loads((FOLDER / "meta.json").read_text()) if (FOLDER / "meta.json").is_file() else {}


@pytest.mark.skipif(not META, reason=f"{FOLDER} holds no tables")
@pytest.mark.parametrize("name", META or ["none"])
def test_has_the_known_size_and_splits_into_finite_numbers(name):
    known = META[name]
    settings = {"name": "table", "path": str(FOLDER / f"{name}.parquet"), "categorical": known["categorical"]}
    data = BinaryDataset.model_validate(settings).load()
    assert (data.rows, data.columns) == (known["n"], known["d"])
    assert data.positive_rate == pytest.approx(known["positive_rate"], abs=1e-4)
    split = data.split(0, 0.3)
    assert all(torch.isfinite(part).all() for part in split)
    assert split.train_x.shape[1:] == split.test_x.shape[1:] == data.shape
    assert len(split.train_y) == known["n"] - len(split.test_y)
