"""What is offered, what a worker asks, and how many fit. Pure."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from orchestrator.console import size
from orchestrator.experiment import Resources
from orchestrator.task import Memory, Needs

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
    gpu_memory_gb: float | None = None
    """Memory of each GPU; None where it cannot be known."""

    def slots(self, needs: Needs) -> int:
        """How many workers, or ranks, of this size fit side by side."""
        limits = [self.cpus / needs.cpus, self.memory_gb / needs.memory_gb]
        if needs.gpus > 0:
            limits.append(self.gpus / needs.gpus)
        return max(0, int(min(limits) + _ROUNDING))

    def without(self, needs: Needs, count: int) -> "Node":
        return replace(
            self,
            cpus=self.cpus - count * needs.cpus,
            gpus=self.gpus - count * needs.gpus,
            memory_gb=self.memory_gb - count * needs.memory_gb,
        )

    def holds(self, memory: Memory, needs: Needs) -> int:
        """How many workers find this much memory here, main memory and on the GPUs. A share of a GPU has that share
        of its memory, and no worker computes on two."""
        on_card = None if self.gpu_memory_gb is None else self.gpu_memory_gb * min(1.0, needs.gpus)
        if needs.gpus > 0 and on_card is not None and memory.gpu_gb > on_card + _ROUNDING:
            return 0
        return int(self.memory_gb / memory.main_gb + _ROUNDING)

    def part(self, count: int) -> "Node":
        """One of so many equal parts."""
        return Node(self.cpus / count, self.gpus / count, self.memory_gb / count)


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
    gpu_memory_gb: float | None = None
    """Memory of each GPU of one machine; None where it cannot be known."""

    @classmethod
    def of(cls, where: str, nodes: Sequence[Node], disk_gb: float | None = None) -> "Offer":
        """What some machines have together."""
        cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
        return cls(where, cpus, gpus, sum(node.memory_gb for node in nodes), disk_gb, tuple(nodes))

    @property
    def machines(self) -> tuple[Node, ...]:
        return self.nodes or (Node(self.cpus, self.gpus, self.memory_gb, self.gpu_memory_gb),)

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
        """What each of `count` may use: an equal part of a machine; of a cluster the smallest hand where the nodes
        that have cores are dealt out, the largest first, or, where these are fewer, a part of the smallest."""
        able = [node for node in self.machines if node.cpus > 0] or list(self.machines)
        able.sort(key=lambda node: (node.gpus, node.cpus, node.memory_gb), reverse=True)
        hand = able[count - 1 :: count] or [able[-1].part(math.ceil(count / len(able)))]
        if self.nodes:
            return Offer.of(where, hand, self.disk_gb)
        return replace(self, where=where, **asdict(hand[0]))


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
    tests = (_too_large, _too_much, _too_scattered)
    found = [
        line for plan in stages for line in next(filter(None, (test(plan, offer) for test in tests)), [])
    ]
    disk_gb = sum(plan.disk_bytes for plan in stages) / GB
    if offer.disk_gb is not None and disk_gb > offer.disk_gb:
        found.append(
            f"the store needs about {size(disk_gb * GB)} more, {size(offer.disk_gb * GB)} are free; "
            "free some (`limbeck artifacts gc`) or give another --store"
        )
    return found


def _too_large(plan: "StagePlan", offer: Offer) -> list[str]:
    """What the settings make takes more memory than the machines have, before any default of the task."""
    memory, needs = plan.memory, plan.needs
    if memory is None or sum(node.holds(memory, needs) for node in offer.machines) >= needs.ranks:
        return []
    largest = max(node.memory_gb for node in offer.machines)
    asked, offered = f"{memory.main_gb:.3g} GB", f"{largest:.3g} GB on a machine"
    cards = [node.gpu_memory_gb for node in offer.machines if node.gpu_memory_gb is not None]
    if needs.gpus > 0 and cards:
        share = "a GPU" if needs.gpus >= 1 else f"{needs.gpus:g} of a GPU"
        asked += f" and {memory.gpu_gb:.3g} GB on {share}"
        offered += f" and {max(cards):.3g} GB on a GPU"
    who = "a worker takes" if needs.ranks == 1 else f"each of {needs.ranks} ranks takes"
    parts = ", ".join(f"{name} {size:.3g}" for name, size in memory.parts.items())
    return [
        f"stages.{plan.name}: not enough memory: {who} about {asked} ({parts}), {offer.where} offers {offered}; "
        f"{memory.advice}, or give resources.memory_gb if you know better"
    ]


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
