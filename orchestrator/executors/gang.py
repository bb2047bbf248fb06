"""Drives a stage whose shards are computed by gangs: to the driver, a gang is a worker whose foreman speaks for it."""

from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.executors.foreman import Foreman
from orchestrator.executors.sharded import Crew, ShardedStage

_CALLS = 32
"""Of a foreman side by side: those of the driver and of all ranks, each of a moment."""


class GangStage(ShardedStage):
    """As `ShardedStage`, but hires foremen, of whom each leads `ranks` processes; a plain worker closes."""

    def _hire(self) -> None:
        if not self._todo:
            return super()._hire()
        offer, options = self._offer, self.plan.stage.options
        offered = f"{offer.where} offers {offer.cpus:g} cpus, {offer.gpus:g} gpus, {offer.memory_gb:g} GB"
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        hired: Any = ray.remote(Foreman).options(
            num_cpus=0, max_concurrency=_CALLS, max_restarts=0, scheduling_strategy=here
        )
        actor = hired.remote(self._told, self.plan.needs, options.deadline_s, offered)
        self._crew.append(Crew(actor, actor.load.remote(), leads=True))
        return None

    def _dismiss(self, crew: Crew) -> None:
        """A foreman ends its ranks, has Ray Train give their places back, and ends when nobody holds it any more."""
        if not crew.leads:
            return super()._dismiss(crew)
        crew.actor.give_up.remote()
        self._crew.remove(crew)
        return None

    def _close(self, crew: Crew) -> None:
        if not crew.leads:
            return super()._close(crew)
        self._dismiss(crew)
        return self._hire()
