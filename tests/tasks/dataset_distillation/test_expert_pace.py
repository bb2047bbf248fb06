import pytest

from tasks.dataset_distillation import expert_pace
from tasks.dataset_distillation.expert_pace import Shape, pace, stacks_to_try
from tasks.dataset_distillation.flat import FlatModel
from tasks.nets import Network, build

SHAPE = Shape({}, (1, 8, 8), 10, 32, "crop_rotate", penalty=False)


@pytest.mark.parametrize(
    ("device", "experts", "expert_bytes", "stacks"),
    [
        ("cpu", 100, 1, [1, 2, 4, 8]),
        ("cpu", 8, 1, [1, 2, 4]),
        ("cpu", 1, 1, [1]),
        ("cuda", 100, 1, [1, 2, 4, 8, 16, 32]),
        ("cuda:1", 5, 1, [1, 2, 4]),
        ("cuda", 100, 1 << 27, [1, 2, 4]),
        ("cuda", 100, 1 << 40, [1]),
    ],
)
def test_a_stack_fits_memory_and_leaves_work_for_others(device, experts, expert_bytes, stacks):
    assert stacks_to_try(device, experts=experts, expert_bytes=expert_bytes) == stacks


@pytest.mark.parametrize("penalty", [False, True])
def test_tells_steps_a_second(monkeypatch, penalty):
    monkeypatch.setattr(expert_pace, "SECONDS", 0.02)
    model = FlatModel(build(Network(width=4, depth=1), (1, 8, 8), 10, 0))
    shape = Shape({}, (1, 8, 8), 10, 32, "crop_rotate", penalty=penalty)
    assert all(pace(model, shape, stack, "cpu") > 0 for stack in (1, 3))


def test_depends_on_what_is_plain_json():
    assert SHAPE.depends_on() == {
        "network": {},
        "image": [1, 8, 8],
        "classes": 10,
        "batch_size": 32,
        "augment": "crop_rotate",
        "penalty": False,
    }
