"""Two small tasks of another package, found by entry point, with which the engine's tests break things."""

import os
import resource
import socket
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import psutil
import torch
from pydantic import Field

from orchestrator.task import (
    Artifact,
    Choices,
    Context,
    Facts,
    Input,
    Needs,
    Output,
    Progress,
    Role,
    Settings,
    Shard,
    ShardFiles,
    Task,
)


class WalkConfig(Settings):
    """A random walk a shard."""

    walks: Annotated[int, Role.PLAN] = Field(default=4, ge=1)
    """How many walks."""
    steps: int = Field(default=5, ge=1)
    """Steps of each walk."""
    spin: Annotated[int, Role.PLAN] = 0
    """Rounds of arithmetic on one core, once a walk."""
    pause_s: Annotated[float, Role.PLAN] = 0.0
    """Seconds between steps; not in a key, as it changes nothing."""
    trouble: Annotated[
        Literal["none", "crash", "value", "nan", "io", "hang", "memory", "gate"], Role.PLAN
    ] = "none"
    """What goes wrong in the walks named by `at`; a gate opens when there is a file `go` in `folder`."""
    at: Annotated[tuple[int, ...], Role.PLAN] = ()
    """Walks in which it goes wrong."""
    times: Annotated[int, Role.PLAN] = 1
    """How often it goes wrong in each, counted in `folder`."""
    folder: Annotated[str, Role.PLAN] = ""
    """Where marks are left: `start-<walk>-...-<host>` for each start, `trouble-...` for each trouble, `end-...`."""


class Walk(Task[WalkConfig]):
    """Random walks, for tests."""

    version = 1
    makes = "walks"
    tolerant = True
    Config = WalkConfig
    needs = Needs(cpus=1, memory_gb=0.2)

    @classmethod
    def describe(cls, config: WalkConfig, inputs: Mapping[str, Facts]) -> Facts:
        return {"steps": config.steps}

    @classmethod
    def shards(cls, config: WalkConfig, facts: Facts) -> Sequence[Shard]:
        return [Shard({"walk": walk}, disk_bytes=8 * config.steps) for walk in range(config.walks)]

    def __init__(
        self, config: WalkConfig, inputs: Mapping[str, Artifact], facts: Facts, context: Context
    ) -> None:
        self.config = config

    def compute(self, shard: Shard, context: Context) -> Output:
        walk = int(shard.identity["walk"])
        self._mark("start", walk)
        spin(self.config.spin)
        saved = context.load_progress()
        path = list(saved.tensors["path"]) if saved else [torch.zeros((), dtype=torch.float64)]
        for step in range(len(path) - 1, self.config.steps):
            generator = torch.Generator().manual_seed(context.seed("step", step))
            path.append(path[-1] + torch.randn((), dtype=torch.float64, generator=generator))
            context.log({"position": float(path[-1])}, step)
            self._trouble(walk, step, context)
            time.sleep(self.config.pause_s)
            context.save_progress(lambda: Progress({"path": torch.stack(path)}, {}))
        self._mark("end", walk)
        return Output(tensors={"path": {"path": torch.stack(path)}}, metrics={"end": float(path[-1])})

    @classmethod
    def close(
        cls,
        config: WalkConfig,
        inputs: Mapping[str, Artifact],
        facts: Facts,
        shards: Sequence[ShardFiles],
        context: Context,
    ) -> Output:
        ends = torch.stack([shard.tensors("path", rows=[config.steps])["path"][0] for shard in shards])
        return Output(tensors={"ends": {"ends": ends}}, metrics={"mean_end": float(ends.mean())})

    def _mark(self, what: str, walk: int) -> int:
        """Leaves a mark and says how many there are of this kind."""
        if not self.config.folder:
            return 0
        folder = Path(self.config.folder)
        (folder / f"{what}-{walk}-{time.time_ns()}-{socket.gethostname()}").touch()
        return len(list(folder.glob(f"{what}-{walk}-*")))

    def _trouble(self, walk: int, step: int, context: Context) -> None:
        if self.config.trouble == "none" or walk not in self.config.at or step != self.config.steps // 2:
            return
        if self._mark("trouble", walk) > self.config.times:
            return
        match self.config.trouble:
            case "crash":
                os._exit(7)
            case "value":
                raise ValueError("a bad value")
            case "io":
                raise OSError("a passing fault")
            case "nan":
                context.log({"position": float("nan")}, step)
            case "memory":
                exhaust()
            case "hang":
                time.sleep(3600)
            case "gate":
                while not (Path(self.config.folder) / "go").exists():
                    time.sleep(0.05)


def spin(rounds: int) -> None:
    """Keeps one core busy: about half a millisecond a round."""
    for _ in range(rounds):
        sum(number * number for number in range(10_000))


def exhaust() -> None:
    """Asks for more memory than this process may still have."""
    used = psutil.Process().memory_info().vms
    resource.setrlimit(resource.RLIMIT_AS, (used + 10**9, resource.RLIM_INFINITY))
    torch.zeros(10**10)


class TotalConfig(Settings):
    """Sums the ends of walks."""

    walks: Annotated[str, Input("walks")]
    """The walks."""
    scale: float = 1.0
    """Factor of the sum."""


class Total(Task[TotalConfig]):
    """The sum of the ends of walks, for tests."""

    version = 1
    makes = "total"
    Config = TotalConfig
    needs = Needs(cpus=1, memory_gb=0.2)

    @classmethod
    def describe(cls, config: TotalConfig, inputs: Mapping[str, Facts]) -> Facts:
        return {"steps": inputs["walks"]["steps"]}

    @classmethod
    def shards(cls, config: TotalConfig, facts: Facts) -> Sequence[Shard]:
        return [Shard({"total": True})]

    def __init__(
        self, config: TotalConfig, inputs: Mapping[str, Artifact], facts: Facts, context: Context
    ) -> None:
        self.config, self.walks = config, inputs["walks"]

    def compute(self, shard: Shard, context: Context) -> Output:
        total = self.walks.tensors("ends")["ends"].sum() * self.config.scale
        return Output(tensors={"total": {"total": total}}, metrics={"total": float(total)})

    @classmethod
    def close(
        cls,
        config: TotalConfig,
        inputs: Mapping[str, Artifact],
        facts: Facts,
        shards: Sequence[ShardFiles],
        context: Context,
    ) -> Output:
        return Output(metrics={"total": shards[0].metrics["total"]})


class GroupConfig(Settings):
    """Random numbers, several items a shard."""

    items: Annotated[int, Role.PLAN] = Field(default=10, ge=1)
    """How many items."""
    group: Annotated[int | None, Role.PLAN] = Field(default=None, ge=1)
    """Items a shard; none: measured."""
    best: Annotated[int, Role.PLAN] = 4
    """The group that goes fastest; larger ones are slower again."""
    broken: Annotated[bool, Role.PLAN] = False
    """Whether the pace cannot be measured."""


class Group(Task[GroupConfig]):
    """One random number an item, for tests of what is left to measurement."""

    version = 1
    makes = "numbers"
    Config = GroupConfig
    needs = Needs(cpus=1, memory_gb=0.2)

    @classmethod
    def describe(cls, config: GroupConfig, inputs: Mapping[str, Facts]) -> Facts:
        return {"items": config.items}

    @classmethod
    def choices(cls, config: GroupConfig, facts: Facts, device: str) -> Choices | None:
        settings = [{"group": group} for group in (1, 2, 4, 8, 16)]
        return None if config.group else Choices({"best": config.best}, settings)

    @classmethod
    def pace(cls, config: GroupConfig, facts: Facts, device: str) -> float:
        if config.broken:
            raise ValueError("no pace today")
        assert config.group is not None
        time.sleep(0.05)
        return config.group if config.group <= config.best else config.best / 2

    @classmethod
    def shards(cls, config: GroupConfig, facts: Facts) -> Sequence[Shard]:
        group = config.group or 1
        starts = range(0, config.items, group)
        return [Shard({"first": first, "last": min(first + group, config.items) - 1}) for first in starts]

    def __init__(
        self, config: GroupConfig, inputs: Mapping[str, Artifact], facts: Facts, context: Context
    ) -> None: ...

    def compute(self, shard: Shard, context: Context) -> Output:
        items = range(int(shard.identity["first"]), int(shard.identity["last"]) + 1)
        seeds = [context.seed(item={"item": item}) for item in items]
        return Output(tensors={"numbers": {"numbers": torch.tensor(seeds)}})

    @classmethod
    def close(
        cls,
        config: GroupConfig,
        inputs: Mapping[str, Artifact],
        facts: Facts,
        shards: Sequence[ShardFiles],
        context: Context,
    ) -> Output:
        numbers = torch.cat([shard.tensors("numbers")["numbers"] for shard in shards])
        return Output(tensors={"all": {"numbers": numbers}})


class ClimbConfig(Settings):
    """A curve that rises to a height."""

    height: float = 1.0
    """Where it ends; below 0 it fails at once."""
    steps: int = Field(default=5, ge=1)
    """Points of the curve."""
    pause_s: Annotated[float, Role.PLAN] = 0.0
    """Seconds between two points."""
    folder: Annotated[str, Role.PLAN] = ""
    """Where marks are left: `climb-<height>-...` for each start, `top-<height>-...` for each end."""


class Climb(Task[ClimbConfig]):
    """A curve whose name is also that of the final metric, for tests of searches."""

    version = 1
    makes = "climb"
    Config = ClimbConfig
    needs = Needs(cpus=1, memory_gb=0.2)

    @classmethod
    def describe(cls, config: ClimbConfig, inputs: Mapping[str, Facts]) -> Facts:
        return {}

    @classmethod
    def shards(cls, config: ClimbConfig, facts: Facts) -> Sequence[Shard]:
        return [Shard({"climb": True})]

    def __init__(
        self, config: ClimbConfig, inputs: Mapping[str, Artifact], facts: Facts, context: Context
    ) -> None:
        self.config = config

    def compute(self, shard: Shard, context: Context) -> Output:
        config = self.config
        self._mark("climb")
        if config.height < 0:
            raise ValueError(f"no way down to {config.height:g}")
        for step in range(1, config.steps + 1):
            context.log({"height": config.height * step / config.steps}, step)
            context.save_progress(partial(Progress, {}, {"step": step}))  # where a stop is heard
            time.sleep(config.pause_s)
        self._mark("top")
        return Output(metrics={"height": config.height})

    @classmethod
    def close(
        cls,
        config: ClimbConfig,
        inputs: Mapping[str, Artifact],
        facts: Facts,
        shards: Sequence[ShardFiles],
        context: Context,
    ) -> Output:
        return Output(metrics={"height": shards[0].metrics["height"]})

    def _mark(self, what: str) -> None:
        if self.config.folder:
            (Path(self.config.folder) / f"{what}-{self.config.height:g}-{time.time_ns()}").touch()
