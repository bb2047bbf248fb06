import numpy as np
import pytest
import torch

from tasks.data import Dataset
from tasks.dataset_distillation.expert_trajectories import ExpertTrajectories
from tests.tasks.harness import run_task

EXPERTS = {
    "dataset": "digits",
    "network": {"name": "convnet", "width": 8, "depth": 1},
    "experts": 2,
    "epochs": 4,
    "lr": 0.1,
    "augment": "crop_scale_rotate",
}


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """As in a worker; several threads on networks this small only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def experts_config():
    """Settings of small experts that a second trains."""
    return EXPERTS


@pytest.fixture(scope="session")
def experts():
    """Two small experts of four epochs on the digits."""
    return run_task(ExpertTrajectories, EXPERTS)


@pytest.fixture
def digits_copy(tmp_path):
    """Writes some of the digits as a dataset of one's own: settings of the first `limit` training images."""

    def write(limit, folder=tmp_path):
        data = Dataset(name="digits").load()
        for name, split in {"train": data.train, "test": data.test}.items():
            images = split.images[:limit, 0] if name == "train" else split.images[:, 0]
            np.savez(folder / f"{name}.npz", images=images, labels=split.labels[: len(images)])
        return {"name": "npz", "train": str(folder / "train.npz"), "test": str(folder / "test.npz")}

    return write
