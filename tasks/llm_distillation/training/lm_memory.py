"""What the training of a student takes, before it starts. An estimate from below: what cannot be, not all that may be.

Sources: what a stage splits, it splits evenly (ZeRO, Rajbhandari et al. 2020, section 3); what a layer keeps for the
backward pass is counted as Korthikanti et al. 2022 do, for fused attention and no dropout.
"""

import os
from collections.abc import Mapping

from orchestrator.task import Context, Facts, Memory, Needs
from tasks.llm_distillation.distill_config import DistillConfig
from tasks.llm_distillation.losses.chunked import CHUNK_MB
from tasks.llm_distillation.training.zero import Zero

GB = 10**9
PROCESS = 7 * 10**8
"""Bytes of a process with torch, transformers and DeepSpeed, before any weight."""
KEPT_A_LAYER = 16
"""Numbers a token and unit of the hidden size that a layer keeps: its inputs, queries, keys and values, what attention
and the inner layer give."""
WEIGHTS, GRADIENTS, OPTIMISER = "weights", "gradients", "optimiser"
ADVICE = (
    "raise zero.stage, give more ranks, lower micro_batch, use activation_checkpointing, zero.teacher or lora"
)

Bytes = dict[str, int]


def state_bytes(parameters: int, zero: Zero, precision: str, ranks: int, adapters: bool = False) -> Bytes:
    """Weights, gradients and optimiser state on one rank; of adapters, which are small, the frozen weights alone."""
    narrow = 2 if precision == "bf16" and zero.stage > 0 else 4
    whole = {WEIGHTS: narrow, GRADIENTS: 4, OPTIMISER: 8 if zero.stage == 0 else 12}
    if adapters:
        whole = {WEIGHTS: narrow}
    split = {0: (), 1: (OPTIMISER,), 2: (OPTIMISER, GRADIENTS), 3: (OPTIMISER, GRADIENTS, WEIGHTS)}[
        zero.stage
    ]
    return {name: -(-parameters * size // (ranks if name in split else 1)) for name, size in whole.items()}


def activation_bytes(
    tokens: int, hidden_size: int, layers: int, precision: str, checkpointing: bool, device: str
) -> int:
    """What a forward pass of so many tokens keeps for the backward pass, and a chunk of logits. With `checkpointing`
    each layer keeps its input, and one layer at a time all it has."""
    width = tokens * hidden_size * (2 if precision == "bf16" else 4)
    kept = layers + KEPT_A_LAYER if checkpointing else layers * KEPT_A_LAYER
    return width * kept + (CHUNK_MB[device] << 20)


def held_bytes(config: DistillConfig, facts: Facts, ranks: int, device: str) -> Bytes:
    """What one rank holds on its device during a step, by name; `facts` as `planned` gives them."""
    state = state_bytes(
        facts["parameters"], config.zero, config.precision, ranks, adapters=config.lora is not None
    )
    size = min(config.micro_batch or config.batch, -(-config.batch // ranks))
    state["activations"] = activation_bytes(
        size * config.length, facts["hidden_size"], facts["layers"], config.precision,
        config.activation_checkpointing, device,
    )  # fmt: skip
    if config.on_policy is not None and config.on_policy.sampling.engine == "vllm":
        state["vllm"] = facts["parameters"] * (2 if config.precision == "bf16" else 4)
    teacher = -(-facts.get("teacher_bytes", 0) // (ranks if config.zero.teacher else 1))
    return {**state, "teacher": teacher} if teacher else state


def offloaded(held: Mapping[str, int], zero: Zero, device: str) -> frozenset[str]:
    """Which of it lies in main memory instead."""
    if device == "cpu" or zero.stage == 0:
        return frozenset()
    moved = {OPTIMISER} if zero.offload_optimizer else set()
    return frozenset(moved | ({WEIGHTS} if zero.offload_parameters and zero.stage == 3 else set()))


def memory_of(config: DistillConfig, facts: Facts, needs: Needs) -> Memory:
    """Of each rank. Every rank begins with the whole student in fp32, and loads a teacher, in main memory."""
    device = "cuda" if needs.gpus > 0 else "cpu"
    held = held_bytes(config, facts, needs.ranks, device)
    away = offloaded(held, config.zero, device)
    there = sum(size for name, size in held.items() if name not in away)
    beginning = 4 * facts["parameters"] + facts.get("teacher_bytes", 0)
    main = max(there if device == "cpu" else sum(held[name] for name in away), beginning)
    return Memory(
        main_gb=(main + PROCESS) / GB,
        gpu_gb=there / GB if device == "cuda" else 0.0,
        parts={name: size / GB for name, size in held.items()},
        advice=ADVICE,
    )


def check_memory(config: DistillConfig, facts: Facts, context: Context) -> None:
    """ValueError where a rank would hold more than is free on its device."""
    import psutil
    import torch

    held = held_bytes(config, facts, context.world_size, context.device.partition(":")[0])
    away = offloaded(held, config.zero, context.device)
    needed = sum(size for name, size in held.items() if name not in away)
    here = int(os.environ.get("LOCAL_WORLD_SIZE", context.world_size))
    free = psutil.virtual_memory().available / here
    if context.device != "cpu":
        free = torch.cuda.mem_get_info(context.device)[0]
    if needed > free:
        told = ", ".join(f"{name} {size / GB:.1f}" for name, size in held.items() if name not in away)
        raise ValueError(
            f"not enough memory: {facts['parameters']:,} parameters take {needed / GB:.1f} GB on each of "
            f"{context.world_size} ranks at ZeRO stage {config.zero.stage} ({told}), {free / GB:.1f} GB are free; "
            f"{ADVICE}"
        )
