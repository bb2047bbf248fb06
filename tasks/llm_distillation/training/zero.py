"""All that knows DeepSpeed: a module trained under ZeRO, and its state by the names of its parameters.

Source: ZeRO, Rajbhandari et al. 2020, arXiv 1910.02054; DeepSpeed's engine and its safe accessors.
"""

import contextlib
import functools
import io
import itertools
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from orchestrator.task import Settings

WEIGHT, MOMENTS = "weight", ("exp_avg", "exp_avg_sq")
BUCKET = 50_000_000
"""Gradients that are reduced at once: a buffer of this many numbers is held on the device."""


class Zero(Settings):
    """How the state of the training is spread over the ranks."""

    stage: Literal[0, 1, 2, 3] = 2
    """What is split among the ranks: 0 nothing, 1 the optimiser's state, 2 the gradients too, 3 the weights too."""
    offload_optimizer: bool = False
    """Keep the optimiser's state in main memory; stages 1 to 3, without effect on a CPU."""
    offload_parameters: bool = False
    """Keep the weights in main memory; stage 3, without effect on a CPU."""
    whole_below: int = Field(default=100_000, ge=0)
    """Stage 3 leaves a parameter of at most this many numbers whole on every rank."""
    teacher: bool = False
    """Split the weights of a teacher that reads along among the ranks too, whatever the stage is: less memory, more
    talk between the ranks."""


@dataclass(frozen=True)
class Optimization:
    """AdamW and what a step is made of."""

    weight_decay: float
    betas: tuple[float, float]
    clip: float
    """Largest norm of the whole gradient; 0 for no limit."""
    micro_batch: int
    """Sequences of one forward pass on a rank."""
    accumulation: int
    """Forward passes of a rank in one step."""
    precision: Literal["fp32", "bf16"]


class ZeroModel:
    """A module under ZeRO: forward, backward, step; its whole state by parameter name.

    Every method is a collective call: all ranks make it in the same order.
    """

    def __init__(
        self,
        module: nn.Module,
        zero: Zero,
        optimization: Optimization,
        device: str,
        saved: Mapping[str, Tensor] | None = None,
        steps: int = 0,
        indivisible: Sequence[type[nn.Module]] = (),
    ) -> None:
        """`saved` is the union of what `state` gave on all ranks, of any world size and stage, after `steps`.

        `indivisible`: modules whose weights, and those of all modules inside, are used by their own forward pass;
        stage 3 makes them whole together.
        """
        self._deepspeed = deepspeed_on(device)
        join_alone(device)
        self.module = module
        self._trained = [name for name, weight in module.named_parameters() if weight.requires_grad]
        if saved is not None:
            _load(module, {name: saved[f"{WEIGHT}/{name}"] for name in self._trained})
        exact = _exact(module) if optimization.precision == "bf16" else {}
        if zero.stage == 3 and indivisible:
            self._deepspeed.utils.set_z3_leaf_modules(module, list(indivisible))
        with quietly(), contextlib.redirect_stdout(io.StringIO()):  # BF16_Optimizer prints its memory
            self.engine, *_ = self._deepspeed.initialize(
                model=module,
                optimizer=_adamw(module, optimization),
                config=engine_config(zero, optimization, device),
                dist_init_required=False,
            )
        self._start_moments(steps)
        for name, weight in exact.items():
            self._set(name, None, weight)
        if saved is not None:
            for name, moment in itertools.product(self._trained, MOMENTS):
                self._set(name, moment, saved[f"{moment}/{name}"])

    def __call__(self, *inputs: Any) -> Any:
        with quietly():
            return self.engine(*inputs)

    def backward(self, loss: Tensor) -> None:
        """Adds the gradient of `loss`; the step takes the sum over passes and ranks.

        DeepSpeed takes the mean over ranks, which is undone here; the last pass of a step updates the weights.
        """
        with quietly():
            self.engine.backward(loss * self.engine.world_size, scale_wrt_gas=False)

    def step(self, lr: float) -> bool:
        """Ends one pass; whether all gradients were finite (the weights are left alone otherwise)."""
        for group in self.engine.optimizer.param_groups:
            group["lr"] = lr
        boundary = self.engine.is_gradient_accumulation_boundary()
        with quietly():
            self.engine.step()
        return not boundary or bool(self.engine.was_step_applied())

    def state(self) -> dict[str, Tensor]:
        """fp32 weights and moments on the CPU, of this rank's part of the names: every world-size-th."""
        rank, ranks = self.engine.global_rank, self.engine.world_size
        kept = {}
        for number, name in enumerate(self._trained):
            for kind in (None, *MOMENTS):
                whole = self._get(name, kind)
                if number % ranks == rank:
                    kept[f"{kind or WEIGHT}/{name}"] = whole.to("cpu", torch.float32, copy=True).contiguous()
        return kept

    def weights(self) -> dict[str, Tensor]:
        """The trained weights in fp32 on the CPU of rank 0; empty on the other ranks."""
        kept = {}
        for name in self._trained:
            whole = self._get(name, None)
            if self.engine.global_rank == 0:
                kept[name] = whole.to("cpu", torch.float32, copy=True).contiguous()
        return kept

    @contextlib.contextmanager
    def whole(self) -> Iterator[nn.Module]:
        """The module with every weight whole on every rank, to be called and read, not trained; in evaluation mode."""
        self.module.eval()
        with quietly(), self._gathered():
            yield self.module
        self.module.train()

    def _gathered(self) -> contextlib.AbstractContextManager[Any]:
        if not self._split:
            return contextlib.nullcontext()
        from deepspeed.runtime.zero.stage3 import unwrap_model_for_generation

        return unwrap_model_for_generation(self.engine)

    def close(self) -> None:
        """Takes DeepSpeed's hooks off."""
        self.engine.destroy()

    @property
    def _split(self) -> bool:
        return self.engine.zero_optimization_partition_weights()

    @functools.cached_property
    def _parameters(self) -> dict[str, nn.Parameter]:
        return dict(self.module.named_parameters())

    def _get(self, name: str, moment: str | None) -> Tensor:
        parameter, fragments = self._parameters[name], self._deepspeed.utils
        if not self.engine.zero_optimization():
            return parameter.detach() if moment is None else self.engine.optimizer.state[parameter][moment]
        with quietly():
            if moment is None:
                return fragments.safe_get_full_fp32_param(parameter).detach()
            return fragments.safe_get_full_optimizer_state(parameter, moment)

    def _set(self, name: str, moment: str | None, value: Tensor) -> None:
        parameter, fragments = self._parameters[name], self._deepspeed.utils
        if not self.engine.zero_optimization():
            self._get(name, moment).copy_(value)
        elif self._split:
            part = _part(value, self.engine.global_rank, self.engine.world_size)
            if moment is None:
                fragments.safe_set_local_fp32_param(parameter, part)
            else:
                fragments.safe_set_local_optimizer_state(parameter, part, moment)
        elif moment is None:
            fragments.safe_set_full_fp32_param(parameter, value)
        else:
            fragments.safe_set_full_optimizer_state(parameter, value, moment)

    def _start_moments(self, steps: int) -> None:
        """AdamW makes its state in its first step; here it has one from the start, so that it can be read and set."""
        optimizer = self.engine.optimizer
        inner = getattr(optimizer, "optimizer", optimizer)
        flat = getattr(optimizer, "fp32_partitioned_groups_flat", None)  # stage 3 empties the groups
        parameters = flat or [parameter for group in inner.param_groups for parameter in group["params"]]
        for parameter in parameters:
            count = torch.tensor(float(steps), device=parameter.device)
            zeros = {moment: torch.zeros_like(parameter, requires_grad=False) for moment in MOMENTS}
            inner.state[parameter] = {"step": count, **zeros}
        if self.engine.zero_optimization() and not self._split:
            optimizer._lazy_init_hp_params_optimizer_state()  # the safe accessors read what it links


def engine_config(zero: Zero, optimization: Optimization, device: str) -> dict[str, Any]:
    """DeepSpeed's JSON configuration."""
    sharing: dict[str, Any] = {
        "stage": zero.stage,
        "reduce_bucket_size": BUCKET,
        "stage3_param_persistence_threshold": zero.whole_below,
    }
    if zero.offload_optimizer and device != "cpu":
        sharing["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    if zero.offload_parameters and device != "cpu":
        sharing["offload_param"] = {"device": "cpu", "pin_memory": True}
    return {
        "train_micro_batch_size_per_gpu": optimization.micro_batch,
        "gradient_accumulation_steps": optimization.accumulation,
        "gradient_clipping": optimization.clip,
        "zero_optimization": sharing,
        "zero_force_ds_cpu_optimizer": False,
        **_precision(zero.stage, optimization.precision),
    }


def join_alone(device: str) -> None:
    """Makes a process group of one, where there is none."""
    os.environ.setdefault("LOCAL_RANK", "0")
    if not torch.distributed.is_initialized():
        backend = "gloo" if device == "cpu" else "nccl"
        store = torch.distributed.HashStore()
        torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1)


@functools.cache
def deepspeed_on(device: str) -> ModuleType:
    """DeepSpeed, imported when asked for (it takes seconds) and told what it would otherwise guess or compile."""
    os.environ.setdefault("DS_ACCELERATOR", torch.device(device).type)
    with quietly():
        import deepspeed

    # None of its own operators is looked for, nor compiled at the first start (45 s and more): torch has them too.
    deepspeed.ops.__compatible_ops__ = {}
    return deepspeed


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    with warnings.catch_warnings():
        # DeepSpeed 0.19 calls collectives under names that torch 2.13 replaces.
        old = r"`torch\.distributed\.(reduce_scatter_tensor|all_gather_into_tensor)` is deprecated"
        warnings.filterwarnings("ignore", message=old, category=FutureWarning)
        # ... and imports what torch 2.13 keeps, with a warning, for torch.jit.
        jit = r"`torch\.jit\.script(_method)?` is deprecated"
        warnings.filterwarnings("ignore", message=jit, category=DeprecationWarning)
        yield


def _precision(stage: int, precision: str) -> dict[str, Any]:
    """bf16 weights over fp32 ones of the optimiser; stage 0, which has no second copy, casts as it computes."""
    if precision == "fp32":
        return {}
    if stage == 0:
        return {"torch_autocast": {"enabled": True, "dtype": "bfloat16"}}
    return {"bf16": {"enabled": True}, "data_types": {"grad_accum_dtype": "fp32"}}


def _adamw(module: nn.Module, optimization: Optimization) -> torch.optim.AdamW:
    """torch's own AdamW (DeepSpeed's are compiled at the first start); vectors do not decay."""
    trained = [weight for weight in module.parameters() if weight.requires_grad]
    groups = [
        {"params": [weight for weight in trained if weight.ndim > 1]},
        {"params": [weight for weight in trained if weight.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        betas=optimization.betas,
        weight_decay=optimization.weight_decay,
        fused=True,
    )


def _exact(module: nn.Module) -> dict[str, Tensor]:
    """The trained weights as they are before they are rounded."""
    return {
        name: weight.detach().to(torch.float32, copy=True)
        for name, weight in module.named_parameters()
        if weight.requires_grad
    }


def _load(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    parameters = dict(module.named_parameters())
    for name, value in weights.items():
        parameters[name].data.copy_(value)


def _part(value: Tensor, rank: int, ranks: int) -> Tensor:
    """What stage 3 keeps of a parameter on `rank`: equal parts of its numbers, the last filled with zeros."""
    size = -(-value.numel() // ranks)
    padded = nn.functional.pad(value.flatten(), (0, size * ranks - value.numel()))
    return padded[rank * size : (rank + 1) * size]
