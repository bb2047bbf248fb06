"""What a profile of kind `slurm` says."""

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, StringConstraints, field_validator, model_validator

from clusters import profile
from orchestrator.places import state_folder

Word = Annotated[str, StringConstraints(pattern=r"^[^\s\"'\\#=-][^\s\"'\\#]*$")]
"""A name or an expression of Slurm's."""
_OPTION = re.compile(r"--([a-z][a-z0-9-]*)(=[^\"'\\\n#]+)?")
_OURS = {
    "account": "account",
    "array": "",
    "chdir": "working_dir",
    "clusters": "",
    "constraint": "constraint",
    "cpus-per-task": "resources.cpus",
    "error": "folder",
    "export": "env",
    "gpus": "resources.gpus",
    "gpus-per-node": "resources.gpus",
    "gres": "gres",
    "job-name": "",
    "mem": "resources.memory_gb",
    "nodes": "resources.nodes",
    "no-requeue": "requeue",
    "ntasks": "resources.nodes",
    "ntasks-per-node": "",
    "open-mode": "",
    "output": "folder",
    "parsable": "",
    "partition": "partition",
    "qos": "qos",
    "requeue": "requeue",
    "signal": "warning_s",
    "test-only": "",
    "time": "time_limit_s",
    "wait": "",
    "wrap": "",
}
"""Options of sbatch that we give ourselves, or that would make another kind of job; and the field to use instead."""


class Profile(profile.Profile):
    """Nodes of a Slurm cluster. The first of `resources.nodes` holds the driver; it does work too."""

    cannot: ClassVar[Mapping[str, str]] = {
        "exclude": "nothing travels, the job works in the folder itself, which the nodes share",
        "mounts": "nothing is mounted, the nodes have their folders",
    }
    kind: Literal["slurm"]
    """slurm."""
    python: str = Field(default=sys.executable, min_length=1)
    """The Python on the nodes that has limbeck installed; unset: the one that launches."""
    partition: Word | None = None
    """One or several, with commas; unset: Slurm's default."""
    account: Word | None = None
    """Who is charged."""
    qos: Word | None = None
    """Quality of service."""
    constraint: Word | None = None
    """Features of the nodes, such as a100|h100."""
    gres: Word = "gpu"
    """What Slurm calls a GPU, with its type where that matters: gpu:a100. A node has `resources.gpus` of it."""
    options: tuple[str, ...] = ()
    """Further options of sbatch as it is given them, such as --exclusive or --mail-type=END."""
    setup: str = ""
    """Shell lines that prepare the job, such as `module load`; they run on the first node, and what they export
    reaches all."""
    folder: str = Field(default_factory=lambda: str(state_folder() / "jobs"))
    """Where each job keeps its script, output and token, in a folder of its own that only you can read. The nodes
    have to see it; unset: $LIMBECK_HOME/jobs."""
    scratch: str = "/tmp"
    """A folder on each node's own disk for Ray's files, which are removed at the end. A short one: Ray puts sockets
    there, whose paths have 107 bytes at most."""
    interface: Word | None = None
    """The network interface by which the nodes talk, such as ib0; unset: the one by which Slurm reaches them."""
    join_s: int = Field(default=600, ge=1)
    """Seconds for all nodes to join Ray, once the first runs."""
    requeue: bool = True
    """Whether Slurm starts the job again after a node failed or another job took its place; it goes on from the
    store."""
    warning_s: int = Field(default=60, ge=30, le=65535)
    """Seconds before the time limit at which the run is asked to end; Slurm may ask up to 60 s earlier."""
    requeues_at_limit: int = Field(default=0, ge=0)
    """How often the job goes back into the queue when its time is over, and on from the store; all of Slurm's
    restarts count. 0: it has failed then."""

    @field_validator("options")
    @classmethod
    def _of_sbatch(cls, options: tuple[str, ...]) -> tuple[str, ...]:
        for option in options:
            found = _OPTION.fullmatch(option)
            if not found:
                raise ValueError(f"{option!r}: expected --name or --name=value, without quotes, \\ and #")
            if found[1] in _OURS:
                use = _OURS[found[1]]
                raise ValueError(f"{option!r}: " + (f"use `{use}`" if use else "not for a job of Limbeck"))
        return options

    @field_validator("folder", "scratch")
    @classmethod
    def _plain_path(cls, path: str) -> str:
        whole = str(Path(path).expanduser())
        if not whole.startswith("/") or re.search(r"[\"'\\#%\n]", whole):
            raise ValueError(f"{path!r}: expected an absolute path without quotes, \\, # and %")
        return whole

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.resources.cpus != int(self.resources.cpus):
            raise ValueError(f"resources.cpus: found {self.resources.cpus:g}; Slurm counts whole cores")
        if self.time_limit_s is not None and self.time_limit_s < self.warning_s + 60:
            raise ValueError(
                f"time_limit_s: found {self.time_limit_s:g}; expected at least {self.warning_s + 60}: the run may be"
                " asked to end as early as 60 s before warning_s"
            )
        if self.requeues_at_limit and not self.requeue:
            raise ValueError("requeues_at_limit needs `requeue: true`")
        return self
