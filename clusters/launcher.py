"""What every kind of cluster can do. A kind is a module of this shape; `clusters.kinds` lists them."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from clusters.profile import Profile

Phase = Literal["waiting", "running", "done", "failed", "stopped", "unknown"]
ENDED: tuple[Phase, ...] = ("done", "failed", "stopped")
"""Phases that no job leaves again."""


@dataclass(frozen=True)
class Order:
    """What is to be run there."""

    id: str
    """Ours, safe in names of files, jobs and objects: small letters, digits and `-`, at most 50."""
    argv: tuple[str, ...]
    """What `limbeck` is given there, store and tracking included; paths are relative to the working directory."""
    working_dir: Path
    """The folder here that travels."""
    env: Mapping[str, str]
    """The variables that the profile lets through. May be secret: never on a command line, never printed."""


@dataclass(frozen=True)
class Submission:
    """What would be submitted, without any secret: `--dry-run` prints it."""

    files: Mapping[str, str]
    """Name to text."""
    command: tuple[str, ...]
    """What hands them over; for a client library, the command line that would do the same."""


@dataclass(frozen=True)
class Status:
    """What the cluster says of a job."""

    phase: Phase
    message: str = ""
    """In the cluster's own words; `unknown` has why it could not be asked. A failed question is no failed job."""


@dataclass(frozen=True)
class Check:
    """One thing that `limbeck clusters --check` looked at."""

    what: str
    ok: bool
    found: str
    """What was found, and where that is not enough what to do next."""


class Kind(Protocol):
    """A module. Everything but `render`, which is pure, talks to the cluster and ends within the profile's `wait_s`."""

    Profile: type[Any]
    """Its subclass of clusters.profile.Profile."""

    def check(self, profile: Any) -> Iterable[Check]:
        """Tries to reach the cluster."""
        ...

    def render(self, profile: Any, order: Order) -> Submission: ...

    def submit(self, profile: Any, order: Order, submission: Submission, folder: Path) -> str:
        """Writes the files into `folder` (ours, 0700), hands them over and returns the cluster's name of the job."""
        ...

    def status(self, profile: Any, handle: str) -> Status: ...

    def logs(self, profile: Any, handle: str, follow: bool) -> Iterator[str]:
        """Lines of the job's output so far; with `follow` until it ends."""
        ...

    def stop(self, profile: Any, handle: str) -> None:
        """Asks the job to end in order, as Ctrl-C does; no error where it has ended."""
        ...


def described(profile: Profile) -> str:
    """A line for listings."""
    nodes = profile.resources
    return f"{nodes.nodes} x {nodes.cpus:g} cpu, {nodes.gpus:g} gpu, {nodes.memory_gb:g} GB"
