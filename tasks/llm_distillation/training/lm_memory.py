"""What the training of a student takes, before it starts."""

import os

from orchestrator.task import Context, Facts
from tasks.llm_distillation.distill_config import DistillConfig
from tasks.llm_distillation.training.zero import Zero

GB = 10**9


def state_bytes(parameters: int, zero: Zero, precision: str, ranks: int) -> int:
    """Weights, gradients and optimiser state on one rank, adapters aside; activations come on top.

    Source: Rajbhandari et al. 2020, section 3: what a stage splits, it splits evenly.
    """
    narrow = 2 if precision == "bf16" and zero.stage > 0 else 4
    weights, gradients, master, moments = narrow, 4, 0 if zero.stage == 0 else 4, 8
    split = {0: 0, 1: master + moments, 2: gradients + master + moments}
    parts = split.get(zero.stage, weights + gradients + master + moments)
    whole = weights + gradients + master + moments - parts
    return parameters * whole + -(-parameters * parts // ranks)


def check_memory(config: DistillConfig, facts: Facts, context: Context) -> None:
    """ValueError where the state of the training is larger than the memory that is free."""
    import psutil
    import torch

    if config.lora is not None or (config.zero.offload_optimizer and context.device != "cpu"):
        return
    needed = state_bytes(facts["parameters"], config.zero, config.precision, context.world_size)
    here = int(os.environ.get("LOCAL_WORLD_SIZE", context.world_size))
    free = psutil.virtual_memory().available / here
    if context.device != "cpu":
        free = torch.cuda.mem_get_info(context.device)[0]
    if needed > free:
        raise ValueError(
            f"not enough memory: weights, gradients and optimiser of {facts['parameters']:,} parameters take "
            f"{needed / GB:.1f} GB on each of {context.world_size} ranks at ZeRO stage {config.zero.stage}, "
            f"{free / GB:.1f} GB are free; raise zero.stage, give more ranks, or use lora"
        )
