"""What is offered, what a worker asks, and how many fit. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from orchestrator.console import size
from orchestrator.experiment import Resources
from orchestrator.task import Needs

if TYPE_CHECKING:
    from orchestrator.plan import StagePlan

GB = 10**9
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Node:
    """One machine of a cluster. A worker has to fit on one."""

    cpus: float
    gpus: float
    memory_gb: float

    def slots(self, needs: Needs) -> int:
        """How many workers, or ranks, of this size fit side by side."""
        limits = [self.cpus / needs.cpus, self.memory_gb / needs.memory_gb]
        if needs.gpus > 0:
            limits.append(self.gpus / needs.gpus)
        return max(0, int(min(limits) + _ROUNDING))

    def without(self, needs: Needs, count: int) -> "Node":
        return Node(
            self.cpus - count * needs.cpus,
            self.gpus - count * needs.gpus,
            self.memory_gb - count * needs.memory_gb,
        )


@dataclass(frozen=True)
class Offer:
    """What the machine or cluster has to give."""

    where: str
    cpus: float
    gpus: float
    memory_gb: float
    disk_gb: float | None
    """Free space for the store in GB; None where it cannot be known."""
    nodes: tuple[Node, ...] = ()
    """The machines of a cluster, which together have the above; none: it is one machine."""

    @classmethod
    def of(cls, where: str, nodes: Sequence[Node], disk_gb: float | None = None) -> "Offer":
        """What some machines have together."""
        cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
        return cls(where, cpus, gpus, sum(node.memory_gb for node in nodes), disk_gb, tuple(nodes))

    @property
    def machines(self) -> tuple[Node, ...]:
        return self.nodes or (Node(self.cpus, self.gpus, self.memory_gb),)

    @property
    def cores(self) -> float:
        """Cores of the largest machine."""
        return max(node.cpus for node in self.machines)

    def fits(self, needs: Needs) -> int:
        """How many workers, or gangs, of this size fit side by side; the ranks of a gang may lie on several nodes."""
        return sum(node.slots(needs) for node in self.machines) // needs.ranks

    def without(self, needs: Needs, count: int) -> "Offer":
        """What so many workers, or gangs, leave. Nodes without GPUs are filled first, as Ray does it."""
        left, nodes = count * needs.ranks, list(self.machines)
        for index in sorted(range(len(nodes)), key=lambda index: nodes[index].gpus):
            placed = min(left, nodes[index].slots(needs))
            nodes[index] = nodes[index].without(needs, placed)
            left -= placed
        return Offer.of(self.where, nodes, self.disk_gb)

    def share(self, where: str, count: int) -> "Offer":
        """One of `count` equal parts of a machine."""
        return replace(
            self,
            where=where,
            cpus=self.cpus / count,
            gpus=self.gpus / count,
            memory_gb=self.memory_gb / count,
        )


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
    found = [line for plan in stages for line in _too_much(plan, offer) or _too_scattered(plan, offer)]
    disk_gb = sum(plan.disk_bytes for plan in stages) / GB
    if offer.disk_gb is not None and disk_gb > offer.disk_gb:
        found.append(
            f"the store needs about {size(disk_gb * GB)} more, {size(offer.disk_gb * GB)} are free; "
            "free some (`limbeck artifacts gc`) or give another --store"
        )
    return found


def _too_much(plan: "StagePlan", offer: Offer) -> list[str]:
    """What is more than there is at all."""
    found: list[str] = []
    for what, asked, offered in (
        ("cpus", plan.needs.cpus, offer.cpus),
        ("gpus", plan.needs.gpus, offer.gpus),
        ("memory_gb", plan.needs.memory_gb, offer.memory_gb),
    ):
        ranks = plan.needs.ranks
        who = "a worker asks" if ranks == 1 else f"a gang asks {ranks} x {asked:g} ="
        if ranks * asked > offered + _ROUNDING:
            found.append(
                f"stages.{plan.name}.resources.{what}: {who} {ranks * asked:g}, {offer.where} offers "
                f"{offered:g}; ask less, or run where there is more"
            )
    return found


def _too_scattered(plan: "StagePlan", offer: Offer) -> list[str]:
    """There is enough of all, but not together on one node."""
    needs, slots = plan.needs, sum(node.slots(plan.needs) for node in offer.machines)
    if slots >= needs.ranks:
        return []
    asked = f"{needs.cpus:g} cpus, {needs.gpus:g} gpus, {needs.memory_gb:g} GB on one node"
    who = f"a worker asks {asked}" if needs.ranks == 1 else f"a gang asks {needs.ranks} times {asked}"
    largest = max(offer.machines, key=lambda node: (node.gpus, node.cpus))
    return [
        f"stages.{plan.name}.resources: {who}, the nodes of {offer.where} have room for {slots}; the largest has "
        f"{largest.cpus:g} cpus, {largest.gpus:g} gpus, {largest.memory_gb:g} GB; ask less, or run where there is more"
    ]
