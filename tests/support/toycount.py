"""A task of next to no work in very many shards, for the benchmark of scale."""

from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import Field

from orchestrator.task import (
    Artifact,
    Context,
    Facts,
    Needs,
    Output,
    Role,
    Settings,
    Shard,
    ShardFiles,
    Task,
)


class CountConfig(Settings):
    """Numbers, one a shard."""

    shards: Annotated[int, Role.PLAN] = Field(default=10, ge=1)
    """How many."""


class Count(Task[CountConfig]):
    """Each shard is worth its own number; the closing step adds them up."""

    version = 1
    makes = "count"
    Config = CountConfig
    needs = Needs(cpus=1, memory_gb=0.2)

    @classmethod
    def describe(cls, config: CountConfig, inputs: Mapping[str, Facts]) -> Facts:
        return {}

    @classmethod
    def shards(cls, config: CountConfig, facts: Facts) -> Sequence[Shard]:
        return [Shard({"number": number}) for number in range(config.shards)]

    def __init__(
        self, config: CountConfig, inputs: Mapping[str, Artifact], facts: Facts, context: Context
    ) -> None: ...

    def compute(self, shard: Shard, context: Context) -> Output:
        value = float(shard.identity["number"])
        context.log({"value": value}, 0)
        return Output(metrics={"value": value})

    @classmethod
    def close(
        cls,
        config: CountConfig,
        inputs: Mapping[str, Artifact],
        facts: Facts,
        shards: Sequence[ShardFiles],
        context: Context,
    ) -> Output:
        return Output(metrics={"sum": sum(shard.metrics["value"] for shard in shards)})
