import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tasks.model_distillation.soft_labels import SoftLabels
from tasks.model_distillation.train_teacher import TrainTeacher
from tests.tasks.harness import run_task

CLASSIFIER = {"name": "cifar_resnet8", "width": 8}


@pytest.fixture(scope="session")
def teacher_config():
    return {
        "dataset": "digits",
        "classifier": CLASSIFIER,
        "repeats": 2,
        "epochs": 3,
        "views": {"padding": 1},
    }


@pytest.fixture(scope="session")
def trained(teacher_config):
    """Two classifiers of digits."""
    return run_task(TrainTeacher, teacher_config)


@pytest.fixture(scope="session")
def teacher(trained, tmp_path_factory):
    """The first of them as a checkpoint: settings of a Teacher."""
    file = tmp_path_factory.mktemp("teacher") / "weights.safetensors"
    save_file(trained.shards[0].tensors("weights"), file)
    pixels = {name: tuple(value.tolist()) for name, value in trained.tensors("transform").items()}
    return {"checkpoint": str(file), "classifier": CLASSIFIER, **pixels}


@pytest.fixture(scope="session")
def label_config(teacher):
    """1,442 digits in three epochs of views, in shards that do not keep to the epochs."""
    return {
        "dataset": "digits",
        "teacher": teacher,
        "views": {"padding": 1},
        "epochs": 3,
        "views_per_shard": 1700,
        "batch_size": 100,
        "features": True,
    }


@pytest.fixture(scope="session")
def soft_labels(label_config):
    return run_task(SoftLabels, label_config)


@pytest.fixture
def small_dataset(tmp_path):
    """30 images of 3 classes in files of their own: settings of a Dataset."""
    generator = torch.Generator().manual_seed(0)
    for split in ("train", "test"):
        images = torch.randint(0, 256, (30, 8, 8), dtype=torch.uint8, generator=generator).numpy()
        np.savez(tmp_path / f"{split}.npz", images=images, labels=np.arange(30) % 3)
    return {"name": "npz", "train": str(tmp_path / "train.npz"), "test": str(tmp_path / "test.npz")}
