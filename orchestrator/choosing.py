"""Settings that the user left open: what is to be tried, and which of what was tried is best. Pure."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from orchestrator.experiment import Resources
from orchestrator.feasibility import Offer
from orchestrator.keys import digest
from orchestrator.task import Choices, Json, Needs

_WORTH = 1.15
"""A choice further down the list has to be this much faster: what is smaller is simpler, and noise is noise."""
_HOPELESS = 0.9
"""Where a choice is this much slower than the best so far, those after it are not tried."""


@dataclass(frozen=True)
class Trial:
    """One way of going about the work, and how fast it was."""

    settings: Mapping[str, Json]
    threads: int
    workers: int
    items_per_s: float = 0.0
    """Of all workers together."""

    def row(self) -> dict[str, Json]:
        """As plain JSON."""
        return asdict(self)


def choice_key(task: str, version: int, choices: Choices) -> str:
    """Under which key the outcome is pinned. Not by how much there is to do: more work later goes on as begun."""
    return digest({"task": task, "version": version, "depends_on": dict(choices.depends_on)})


def with_threads(needs: Needs, asked: Resources, threads: int, offer: Offer) -> Needs:
    """`needs` with so many threads and the cores for them, as far as the stage leaves them open."""
    if asked.threads is not None or asked.cpus is not None:
        return needs
    threads = max(1, min(threads, int(offer.cores)))
    return replace(needs, threads=threads, cpus=max(needs.cpus, float(threads)))


def choose(
    settings: Sequence[Mapping[str, Json]],
    needs: Needs,
    asked: Resources,
    offer: Offer,
    items_per_s: Callable[[Trial], float],
) -> tuple[Trial, list[Trial]]:
    """The best and all that were tried: first the settings at the threads asked, then more threads a worker."""
    tried: list[Trial] = []

    def attempt(trial: Trial) -> float:
        tried.append(replace(trial, items_per_s=items_per_s(trial)))
        return tried[-1].items_per_s

    best = _climb((Trial(chosen, needs.threads, _fits(needs, asked, offer)) for chosen in settings), attempt)
    more = _more_threads(best, needs, asked, offer)
    best = _climb(more, attempt, best)
    return best, tried


def _climb(trials: Iterator[Trial], attempt: Callable[[Trial], float], best: Trial | None = None) -> Trial:
    for trial in trials:
        reached = replace(trial, items_per_s=attempt(trial))
        if best is None or reached.items_per_s > best.items_per_s * _WORTH:
            best = reached
        elif reached.items_per_s < best.items_per_s * _HOPELESS:
            break
    assert best is not None, "choices without settings"
    return best


def _more_threads(best: Trial, needs: Needs, asked: Resources, offer: Offer) -> Iterator[Trial]:
    threads = 2 * needs.threads
    while needs.gpus == 0 and threads <= offer.cores:
        wider = with_threads(needs, asked, threads, offer)
        if wider == needs:
            return
        yield Trial(best.settings, threads, _fits(wider, asked, offer))
        threads *= 2


def _fits(needs: Needs, asked: Resources, offer: Offer) -> int:
    fits = max(1, offer.fits(needs))
    return min(fits, asked.workers) if asked.workers else fits
