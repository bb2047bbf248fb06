"""A small task whose shards several ranks compute together, with which the engine's tests break gangs."""

import os
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import torch
import torch.distributed as dist
from pydantic import Field
from torch import Tensor

from orchestrator.task import (
    Artifact,
    Context,
    Facts,
    Needs,
    Output,
    Progress,
    Role,
    Settings,
    Shard,
    ShardFiles,
    Task,
)

ROWS, FEATURES, RATE, MOMENTUM = 24, 5, 0.05, 0.9


class FitConfig(Settings):
    """Least squares by gradient descent with momentum, each rank with its share of the rows."""

    fits: Annotated[int, Role.PLAN] = Field(default=1, ge=1)
    """How many shards."""
    steps: int = Field(default=6, ge=1)
    """Steps of each."""
    pause_s: Annotated[float, Role.PLAN] = 0.0
    """Seconds between steps."""
    trouble: Annotated[Literal["none", "crash", "value", "nan", "hang"], Role.PLAN] = "none"
    """What goes wrong in the middle of the first fit."""
    at: Annotated[int, Role.PLAN] = 1
    """On which rank."""
    times: Annotated[int, Role.PLAN] = 1
    """How often, counted in `folder`."""
    folder: Annotated[str, Role.PLAN] = ""
    """Where marks are left: `start-<rank>-...`, `from-<step>-...`, `pid-<process>-...`, `host-<name>-...`,
    `trouble-<rank>-...`."""


class Fit(Task[FitConfig]):
    """Data-parallel least squares, for tests."""

    version = 1
    makes = "fits"
    Config = FitConfig
    needs = Needs(cpus=1, memory_gb=0.2)
    gang = True

    @classmethod
    def describe(cls, config: FitConfig, inputs: Mapping[str, Facts]) -> Facts:
        return {"steps": config.steps}

    @classmethod
    def shards(cls, config: FitConfig, facts: Facts) -> Sequence[Shard]:
        return [Shard({"fit": fit}) for fit in range(config.fits)]

    def __init__(
        self, config: FitConfig, inputs: Mapping[str, Artifact], facts: Facts, context: Context
    ) -> None:
        self.config = config

    def compute(self, shard: Shard, context: Context) -> Output:
        generator = torch.Generator().manual_seed(context.seed("data"))
        x, noise = torch.randn(2, ROWS, FEATURES, dtype=torch.float64, generator=generator)
        y = x.sum(1) + 0.1 * noise[:, 0]
        saved = context.load_progress()
        first = saved.facts["step"] if saved else 0
        state = saved.tensors if saved else start()
        self._mark("start", context.rank)
        self._mark("from", first)
        self._mark("pid", os.getpid())
        self._mark("host", socket.gethostname())
        mine = slice(context.rank, None, context.world_size)
        for step in range(first, self.config.steps):
            loss = descend(state, x[mine], y[mine], context.world_size)
            context.log({"loss": loss}, step)
            if shard.identity["fit"] == 0 and step == self.config.steps // 2:
                self._trouble(step, context)
            time.sleep(self.config.pause_s)
            share = {name: state[name] for name in sorted(state)[mine]}
            context.save_progress(lambda share=share, step=step: Progress(share, {"step": step + 1}))
        return Output(tensors={"fit": {"w": state["w"], "b": state["b"]}}, metrics={"loss": loss})

    @classmethod
    def close(
        cls,
        config: FitConfig,
        inputs: Mapping[str, Artifact],
        facts: Facts,
        shards: Sequence[ShardFiles],
        context: Context,
    ) -> Output:
        return Output(metrics={"loss": sum(shard.metrics["loss"] for shard in shards) / len(shards)})

    def _mark(self, what: str, name: int | str) -> int:
        """Leaves a mark and says how many there are of this kind."""
        if not self.config.folder:
            return 0
        folder = Path(self.config.folder)
        (folder / f"{what}-{name}-{time.time_ns()}").touch()
        return len(list(folder.glob(f"{what}-{name}-*")))

    def _trouble(self, step: int, context: Context) -> None:
        if self.config.trouble == "none" or context.rank != self.config.at:
            return
        if self._mark("trouble", context.rank) > self.config.times:
            return
        match self.config.trouble:
            case "crash":
                os._exit(7)
            case "value":
                raise ValueError("a bad value")
            case "nan":
                context.log({"loss": float("nan")}, step)
            case "hang":
                time.sleep(3600)


def start() -> dict[str, Tensor]:
    """Weights and their momenta."""
    sizes = {"w": (FEATURES,), "b": (1,)}
    weights = {name: torch.zeros(size, dtype=torch.float64) for name, size in sizes.items()}
    return weights | {f"{name}.momentum": torch.zeros_like(value) for name, value in weights.items()}


def descend(state: Mapping[str, Tensor], x: Tensor, y: Tensor, ranks: int) -> float:
    """One step, in place, on the rows of all ranks; returns the loss before it."""
    errors = x @ state["w"] + state["b"] - y
    sums = torch.cat([x.T @ errors, errors.sum()[None], errors.square().sum()[None]])
    if ranks > 1:
        dist.all_reduce(sums)
    for name, slope in (("w", sums[:-2] / ROWS), ("b", sums[-2:-1] / ROWS)):
        state[f"{name}.momentum"].mul_(MOMENTUM).add_(slope)
        state[name].sub_(RATE * state[f"{name}.momentum"])
    return float(sums[-1] / ROWS)
