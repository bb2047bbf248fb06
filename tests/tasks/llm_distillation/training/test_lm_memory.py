"""What the state of a training takes."""

import pytest

from orchestrator.task import Needs
from tasks.llm_distillation.distill_config import DistillConfig
from tasks.llm_distillation.training.lm_memory import memory_of, state_bytes
from tasks.llm_distillation.training.zero import Zero

BILLION = 10**9
FACTS = {"parameters": 7 * BILLION, "hidden_size": 4096, "layers": 32, "teacher_bytes": 14 * BILLION}


def total(*given, **more):
    return sum(state_bytes(*given, **more).values())


@pytest.mark.parametrize(("stage", "per_parameter"), [(0, 16), (1, 8 + 12 / 4), (2, 4 + 16 / 4), (3, 20 / 4)])
def test_a_stage_splits_what_it_says(stage, per_parameter):
    assert total(1000, Zero(stage=stage), "fp32", 4) == pytest.approx(1000 * per_parameter, abs=1)


def test_bf16_holds_narrow_weights_beside_wide_ones():
    wide, narrow = (total(1000, Zero(stage=2), kind, 1) for kind in ("fp32", "bf16"))
    assert wide - narrow == 2000


def test_adapters_leave_the_frozen_weights():
    assert state_bytes(1000, Zero(stage=3), "bf16", 2, adapters=True) == {"weights": 1000}


def memory(ranks=8, gpus=1.0, **settings):
    config = DistillConfig(
        student={"layers": 32}, teacher="somewhere", corpus="some.txt", objective="forward_kl", length=2048,
        batch=16, steps=1, **settings,
    )  # fmt: skip
    return memory_of(config, FACTS, Needs(gpus=gpus, ranks=ranks))


def test_seven_billion_weights_on_gpus():
    """The arithmetic of the ZeRO paper: 2 + 4 + 12 bytes a weight in bf16, the last two split by 8 at stage 2."""
    plain = memory(precision="bf16", zero={"stage": 2})
    assert plain.parts == pytest.approx(
        {"weights": 14, "gradients": 3.5, "optimiser": 10.5, "activations": 18.25, "teacher": 14}, abs=0.02
    )
    assert plain.gpu_gb == pytest.approx(sum(plain.parts.values()))
    assert plain.main_gb == pytest.approx(
        28 + 14 + 0.7
    )  # each begins with the student in fp32, and its teacher


@pytest.mark.parametrize(
    ("change", "part", "factor"),
    [
        ({"zero": {"stage": 3}}, "weights", 1 / 8),
        ({"zero": {"stage": 2, "teacher": True}}, "teacher", 1 / 8),
        ({"micro_batch": 1}, "activations", 1 / 2),
        ({"activation_checkpointing": True}, "activations", 48 / (32 * 16)),
    ],
)
def test_what_the_advice_names_takes_less(change, part, factor):
    chunk = {"activations": (1 << 30) / 1e9}.get(part, 0)
    before, after = (
        memory(zero={"stage": 2}).parts[part],
        memory(**{"zero": {"stage": 2}, **change}).parts[part],
    )
    assert after - chunk == pytest.approx(factor * (before - chunk), rel=1e-6)


def test_what_is_offloaded_lies_in_main_memory():
    there, away = (memory(zero={"stage": 2, "offload_optimizer": offload}) for offload in (False, True))
    assert there.gpu_gb - away.gpu_gb == pytest.approx(there.parts["optimiser"])
    whole = memory(ranks=1, zero={"stage": 3, "offload_optimizer": True, "offload_parameters": True})
    assert whole.main_gb == pytest.approx(7 * (12 + 4) + 0.7)


def test_without_a_gpu_all_is_main_memory():
    held = memory(gpus=0.0)
    assert held.gpu_gb == 0.0
    assert held.main_gb == pytest.approx(sum(held.parts.values()) + 0.7)
