"""Measures what the user left open: as many workers as would work, side by side on the device at hand."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from orchestrator.catalogue import import_task
from orchestrator.choosing import Trial, choose
from orchestrator.errors import LimbeckError
from orchestrator.feasibility import GB, Offer
from orchestrator.plan import StagePlan
from orchestrator.provenance import now_ms
from orchestrator.store import Store
from orchestrator.store.measured import Measured, pin
from orchestrator.task import Json, Needs

_TIMEOUT_S = 120.0
_ROUNDS = 2


class _Pacer:
    """One worker that only tells how fast it would be."""

    def __init__(self, target: str, config_json: str, facts: Mapping[str, Json], device: str) -> None:
        self._type = import_task(target)
        self._config = self._type.Config.model_validate_json(config_json)
        self._facts, self._device = facts, device

    def where(self) -> str:
        """The device's name."""
        import torch

        if self._device == "cuda":
            return str(torch.cuda.get_device_name())
        return f"{len(os.sched_getaffinity(0))} cores"

    def pace(self, settings: Mapping[str, Json], threads: int) -> float:
        import torch

        torch.set_num_threads(threads)
        config = self._config.model_copy(update=dict(settings))
        return self._type.pace(config, self._facts, self._device)


def measure(plan: StagePlan, offer: Offer, store: Store) -> Measured:
    """Tries the choices of a stage whose `open` is set and pins the best. Needs a Ray to be up.

    Raises LimbeckError where not even the first choice can be tried.
    """
    left = plan.open
    assert left is not None
    asked = plan.stage.options.resources
    most = offer.fits(plan.needs) if asked.workers is None else min(asked.workers, offer.fits(plan.needs))
    pacers = [_hire(plan, left.device) for _ in range(max(1, most))]

    def items_per_s(trial: Trial) -> float:
        try:
            return max(_together(pacers[: trial.workers], trial) for _ in range(_ROUNDS))
        except (RayError, GetTimeoutError) as error:
            if trial.settings == left.settings[0] and trial.threads == plan.needs.threads:
                raise LimbeckError(
                    f"stages.{plan.name}: its pace at {dict(trial.settings)} cannot be measured: "
                    f"{_last_line(error)}; set {', '.join(trial.settings)} in the stage"
                ) from error
            return 0.0

    try:
        where = str(ray.get(pacers[0].where.remote(), timeout=_TIMEOUT_S))
        best, tried = choose(left.settings, plan.needs, asked, offer, items_per_s)
    finally:
        for pacer in pacers:
            ray.kill(pacer)
    record = Measured(
        settings=dict(best.settings), threads=best.threads, where=where, created=now_ms(),
        trials=[trial.row() for trial in tried],
    )  # fmt: skip
    return pin(store.bytes, left.key, left.device, record)


def _hire(plan: StagePlan, device: str) -> Any:
    needs: Needs = plan.needs
    options: dict[str, Any] = {
        "num_cpus": needs.cpus,
        "num_gpus": needs.gpus,
        "memory": int(needs.memory_gb * GB),
        "scheduling_strategy": "DEFAULT",
    }
    config = plan.stage.config.model_dump_json(exclude_unset=True)
    return ray.remote(_Pacer).options(**options).remote(plan.target, config, dict(plan.facts), device)


def _together(pacers: Sequence[Any], trial: Trial) -> float:
    calls = [pacer.pace.remote(dict(trial.settings), trial.threads) for pacer in pacers]
    return float(sum(ray.get(calls, timeout=_TIMEOUT_S)))


def _last_line(error: BaseException) -> str:
    return next(
        (line.strip() for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__
    )
