"""Hires gangs: to the driver, a gang is a worker whose foreman speaks for it."""

from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.executors.actors import ActorHands
from orchestrator.executors.foreman import Foreman

_CALLS = 32
"""Of a foreman side by side: those of the driver and of all ranks, each of a moment."""


class GangHands(ActorHands):
    """As `ActorHands`, but hires foremen, of whom each leads `ranks` processes; a plain worker closes."""

    def __init__(self, *told: Any) -> None:
        super().__init__(*told)
        self._foremen: set[int] = set()

    def hire(self, closing: bool) -> int:
        if closing:
            return super().hire(closing)
        offer, options = self._offer, self._plan.stage.options
        offered = f"{offer.where} offers {offer.cpus:g} cpus, {offer.gpus:g} gpus, {offer.memory_gb:g} GB"
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        hired: Any = ray.remote(Foreman).options(
            num_cpus=0, max_concurrency=_CALLS, max_restarts=0, scheduling_strategy=here
        )
        worker = self._begin(hired.remote(self._told, self._plan.needs, options.deadline_s, offered))
        self._foremen.add(worker)
        return worker

    def can_close(self, worker: int) -> bool:
        return worker not in self._foremen

    def dismiss(self, worker: int) -> None:
        """A foreman ends its ranks, has Ray Train give their places back, and ends when nobody holds it any more."""
        if worker not in self._foremen:
            return super().dismiss(worker)
        self._actors.pop(worker).give_up.remote()
        return None
