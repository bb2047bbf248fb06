"""Small distilled sets for tests, made as a user would: from files."""

import json
from pathlib import Path

import numpy as np
import torch

from tasks.data import Dataset
from tasks.dataset_distillation.evaluate_distilled import EvaluateDistilled
from tasks.dataset_distillation.import_distilled import ImportDistilled
from tasks.dataset_distillation.representative import random_indices
from tests.tasks.harness import run_task

DIGITS = Dataset(name="digits").load()
MLP = {"name": "mlp", "width": 32, "depth": 2}


def real_rows(per_class, seed=0):
    """Row numbers of random real digits, class after class."""
    labels = torch.from_numpy(DIGITS.train.labels)
    return random_indices(labels, 10, per_class, torch.Generator().manual_seed(seed)).numpy()


def parsed(task, **settings):
    """Settings as the engine reads them: from JSON."""
    return task.Config.model_validate_json(json.dumps(settings))


def imported(folder: Path, per_class=2, *, seed=0, **settings):
    """An artifact of kind `distilled` of real digits, in uint8."""
    chosen = real_rows(per_class, seed)
    path = folder / f"set_{per_class}_{seed}.npz"
    np.savez(
        path,
        images=DIGITS.train.images[chosen],
        labels=DIGITS.train.labels[chosen],
        learning_rate=np.float32(0.02),
    )
    usual = {"images": str(path), "dataset": "digits", "network": MLP, "augment": "crop"}
    return run_task(ImportDistilled, parsed(ImportDistilled, **usual | settings))


def evaluated(distilled, progress=None, kill_after=None, seed=0, **settings):
    """Scores of a set after a few short trainings."""
    usual = {
        "distilled": "set",
        "controls": [],
        "repeats": 2,
        "epochs": 12,
        "full_epochs": 4,
        "test_every": 5,
    }
    config = parsed(EvaluateDistilled, **usual | settings)
    return run_task(
        EvaluateDistilled,
        config,
        {"distilled": distilled},
        seed=seed,
        progress=progress,
        kill_after=kill_after,
    )
