"""The job book: what this user has submitted, one folder a job, so that it is found again another day."""

import os
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from clusters.launcher import Phase
from clusters.private import write_private
from orchestrator.errors import LimbeckError, UserError, nearest
from orchestrator.places import state_folder
from orchestrator.task import Settings


class Job(Settings):
    """What was submitted, and how to ask for it."""

    id: str
    """Ours."""
    cluster: str
    """Name of the profile."""
    profile: dict[str, Any]
    """Its values as they were written, so that a job outlives a change of the file."""
    argv: tuple[str, ...]
    """What runs there."""
    submitted: int
    """Milliseconds since 1970."""
    handle: str | None = None
    """The cluster's name of the job; none: the launch was cut short before the cluster had answered."""
    ended: Phase | None = None
    """How it ended, once that is known: then the cluster is not asked again."""
    message: str = ""
    """What the cluster said of that."""


def folder(job: str) -> Path:
    """For the files of a job; for its owner alone."""
    path = state_folder() / "jobs" / job
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def keep(job: Job) -> None:
    """Writes a job down, or what has become of it."""
    target = folder(job.id) / "job.json"
    draft = target.with_name(f"job.{os.getpid()}")
    write_private(draft, job.model_dump_json(indent=2))
    draft.replace(target)


def jobs() -> list[Job]:
    """All of them, newest first."""
    found = [_read(path) for path in (state_folder() / "jobs").glob("*/job.json")]
    return sorted(found, key=lambda job: job.submitted, reverse=True)


def find_job(name: str) -> Job:
    """By its id or a beginning of it that is no other's."""
    known = {job.id: job for job in jobs()}
    if name in known:
        return known[name]
    begun = [job for job in known if job.startswith(name)]
    if len(begun) != 1:
        why = f"several begin so: {', '.join(begun)}" if begun else nearest(name, known)
        raise UserError(f"there is no job {name!r}; {why}; see `limbeck jobs`")
    return known[begun[0]]


def _read(path: Path) -> Job:
    try:
        return Job.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise LimbeckError(f"{path}: not the record of a job: {error}; remove its folder") from error
