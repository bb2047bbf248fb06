"""What is offered, what a worker asks, and how many fit. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.console import size
from orchestrator.experiment import Resources
from orchestrator.task import Needs

if TYPE_CHECKING:
    from orchestrator.plan import StagePlan

GB = 10**9


@dataclass(frozen=True)
class Offer:
    """What the machine or cluster has to give."""

    where: str
    cpus: float
    gpus: float
    memory_gb: float
    disk_gb: float | None
    """Free space for the store in GB; None where it cannot be known."""

    def fits(self, needs: Needs) -> int:
        """How many workers, or gangs, of this size fit side by side."""
        limits = [self.cpus / needs.cpus, self.memory_gb / needs.memory_gb]
        if needs.gpus > 0:
            limits.append(self.gpus / needs.gpus)
        return int(min(limits) / needs.ranks + 1e-9)


def merged(needs: Needs, asked: Resources) -> Needs:
    """What the task needs, with what the stage asks instead."""
    return Needs(
        cpus=needs.cpus if asked.cpus is None else asked.cpus,
        gpus=needs.gpus if asked.gpus is None else asked.gpus,
        memory_gb=needs.memory_gb if asked.memory_gb is None else asked.memory_gb,
        threads=needs.threads if asked.threads is None else asked.threads,
        ranks=needs.ranks if asked.ranks is None else asked.ranks,
    )


def problems(stages: Sequence["StagePlan"], offer: Offer) -> list[str]:
    """One line for each demand that cannot be met; empty when the plan can run."""
    found: list[str] = []
    for plan in stages:
        for what, asked, offered in (
            ("cpus", plan.needs.cpus, offer.cpus),
            ("gpus", plan.needs.gpus, offer.gpus),
            ("memory_gb", plan.needs.memory_gb, offer.memory_gb),
        ):
            ranks = plan.needs.ranks
            who = "a worker asks" if ranks == 1 else f"a gang asks {ranks} x {asked:g} ="
            if ranks * asked > offered + 1e-9:
                found.append(
                    f"stages.{plan.name}.resources.{what}: {who} {ranks * asked:g}, {offer.where} offers "
                    f"{offered:g}; ask less, or run where there is more"
                )
    disk_gb = sum(plan.disk_bytes for plan in stages) / GB
    if offer.disk_gb is not None and disk_gb > offer.disk_gb:
        found.append(
            f"the store needs about {size(disk_gb * GB)} more, {size(offer.disk_gb * GB)} are free; "
            "free some (`limbeck artifacts gc`) or give another --store"
        )
    return found
