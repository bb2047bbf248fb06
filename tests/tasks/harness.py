"""Drives one task in this process, in memory: describe -> shards -> Task(...) -> compute -> close.

    artifact = run_task(ExpertTrajectories, {"dataset": "digits", ...})
    result = run_task(TrajectoryMatching, {...}, {"experts": artifact})

To kill and resume: pass the same `progress` dictionary to a run that `kill_after` ends and to the next.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from orchestrator.task import Facts, Json, Output, Progress, Settings, Shard, Task, derive_seed


class KilledError(Exception):
    """Raised in place of a SIGKILL, right after the save that `kill_after` counts."""


@dataclass(frozen=True)
class MemoryFiles:
    """Files, ShardFiles and Artifact over outputs held in memory; tensors go through safetensors."""

    output: Output
    identity: Mapping[str, Json] = field(default_factory=dict)
    shards: Sequence["MemoryFiles"] = ()
    kind: str = ""
    id: str = "in-memory"
    described: Facts = field(default_factory=dict)
    curves: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    """What the shard or the closing step logged: (step, metrics)."""
    previews: list[tuple[str, int, bytes]] = field(default_factory=list)
    """Its pictures: (name, step, png)."""

    @property
    def facts(self) -> Facts:
        return {**self.described, **self.output.facts}

    @property
    def metrics(self) -> Mapping[str, float]:
        return self.output.metrics

    @property
    def names(self) -> Sequence[str]:
        kinds = {"safetensors": self.output.tensors, "parquet": self.output.tables}
        kinds |= {"arrow": self.output.mapped, "json": self.output.documents}
        return [f"{name}.{suffix}" for suffix, files in kinds.items() for name in files]

    def tensors(self, name: str, rows: Sequence[int] | None = None) -> dict[str, Tensor]:
        found = self.output.tensors[name]
        return {key: (value if rows is None else value[list(rows)]).clone() for key, value in found.items()}

    def table(self, name: str) -> Any:
        return {**self.output.mapped, **self.output.tables}[name]

    def document(self, name: str) -> Json:
        return self.output.documents[name]


class MemoryContext:
    """A Context whose progress lies in a dictionary that outlives it."""

    rank = 0
    world_size = 1

    def __init__(
        self,
        seed: Sequence[Json],
        progress: dict[str, Any],
        kill_after: int | None = None,
        device: str = "cpu",
    ) -> None:
        self.device = device
        self.curves: list[tuple[int, dict[str, float]]] = []
        self.previews: list[tuple[str, int, bytes]] = []
        self._seed, self._progress, self._saves_left = list(seed), progress, kill_after
        self._label = str(self._seed)

    def seed(self, *path: str | int, item: Mapping[str, Json] | None = None) -> int:
        stream = self._seed if item is None else [*self._seed[:-1], dict(item)]
        return derive_seed(*stream, *path)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise ValueError(f"{name} is {value} at step {step}")
        self.curves.append((step, dict(metrics)))

    def preview(self, name: str, png: bytes, step: int = 0) -> None:
        assert png.startswith(b"\x89PNG"), f"preview {name!r} is not a PNG picture"
        self.previews.append((name, step, png))

    def save_progress(self, make: Callable[[], Progress]) -> None:
        made = make()
        self._progress[self._label] = (save(dict(made.tensors)), dict(made.facts))
        if self._saves_left is not None:
            self._saves_left -= 1
            if self._saves_left <= 0:
                raise KilledError

    def load_progress(self) -> Progress | None:
        if self._label not in self._progress:
            return None
        tensors, facts = self._progress[self._label]
        return Progress(tensors=load(tensors), facts=facts)


def run_task(
    task: type[Task[Any]],
    config: Mapping[str, Json] | Settings,
    inputs: Mapping[str, MemoryFiles] | None = None,
    *,
    seed: int = 0,
    progress: dict[str, Any] | None = None,
    kill_after: int | None = None,
    device: str = "cpu",
) -> MemoryFiles:
    """The finished artifact. `config` may leave out the fields that name inputs.

    `progress` keeps the saved state between calls; `kill_after` raises KilledError at that save of a shard.
    """
    inputs = dict(inputs or {})
    if not isinstance(config, Settings):
        config = task.Config(**{name: name for name in inputs}, **config)
    facts = task.describe(config, {name: artifact.facts for name, artifact in inputs.items()})
    progress = {} if progress is None else progress

    def context(*path: Json) -> MemoryContext:
        return MemoryContext([seed, task.__name__, *path], progress, kill_after, device)

    def finish(output: Output, used: MemoryContext, shard: Shard | None = None) -> MemoryFiles:
        packed = {name: load(save(dict(tensors))) for name, tensors in output.tensors.items()}
        output = replace(output, tensors=packed)
        identity = shard.identity if shard else {}
        return MemoryFiles(output, identity, curves=used.curves, previews=used.previews)

    worker, finished = task(config, inputs, facts, context("worker")), []
    for shard in task.shards(config, facts):
        used = context(dict(shard.identity))
        finished.append(finish(worker.compute(shard, used), used, shard))
    used = context("closing")
    closing = finish(task.close(config, inputs, facts, finished, used), used)
    return MemoryFiles(
        closing.output,
        shards=finished,
        kind=task.makes,
        described=facts,
        curves=used.curves,
        previews=used.previews,
    )


def curve(artifact: MemoryFiles, name: str = "train_loss") -> list[float]:
    """What the first shard logged under this name."""
    return [values[name] for _, values in artifact.shards[0].curves if name in values]


def equal(first: MemoryFiles, second: MemoryFiles) -> bool:
    """Whether two artifacts hold the same tensors bit for bit, and the same metrics."""
    pairs = [(first, second), *zip(first.shards, second.shards, strict=True)]
    return all(
        one.metrics == other.metrics
        and one.output.tensors.keys() == other.output.tensors.keys()
        and all(_same(one.tensors(name), other.tensors(name)) for name in one.output.tensors)
        and one.output.mapped == other.output.mapped
        for one, other in pairs
    )


def _same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        first[name].dtype == second[name].dtype and torch.equal(first[name], second[name]) for name in first
    )
