"""Where jobs run: a profile is a small YAML file. What all kinds share stands here; each kind adds its own."""

import re
from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field, ValidationInfo, field_validator

from orchestrator.task import Settings

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class NodeResources(Settings):
    """What the job's nodes have. For kinds that ask for nodes, what is asked."""

    nodes: int = Field(default=1, ge=1)
    """Nodes, the head among them."""
    cpus: float = Field(default=1.0, gt=0)
    """CPU cores of each node."""
    gpus: int = Field(default=0, ge=0)
    """GPUs of each node."""
    memory_gb: float = Field(default=4.0, gt=0)
    """Main memory of each node in GB."""
    price_per_hour: float | None = Field(default=None, ge=0)
    """What a node costs an hour, in the currency you think in; unset: not known, and no cost is shown."""


class Profile(Settings):
    """What a profile of any kind may say."""

    cannot: ClassVar[Mapping[str, str]] = {}
    """Fields that a kind cannot honour, each with the reason; a profile that gives one is refused."""

    kind: str
    """local, existing, slurm, kubernetes or skypilot."""
    store: str | None = None
    """The store as the cluster's nodes see it: a folder that they all share, or s3://BUCKET/PREFIX; unset: --store."""
    tracking: str | None = None
    """MLflow's address as the cluster sees it; unset: --tracking."""
    working_dir: str = "."
    """The folder that travels with the job, relative to where `limbeck launch` is called."""
    exclude: tuple[str, ...] = ()
    """What of it stays behind, as .gitignore writes it; .gitignore itself is honoured too."""
    python: str = "python3"
    """The Python on the cluster that has limbeck installed."""
    env: tuple[str, ...] = ()
    """Environment variables of this machine that travel; no other does."""
    mounts: dict[str, str] = {}
    """Path on the cluster's nodes to what is mounted there, as the kind understands it."""
    resources: NodeResources = NodeResources()
    """The nodes."""
    time_limit_s: float | None = Field(default=None, gt=0)
    """Seconds after which the job is ended; unset: the cluster's own limit."""
    retries: int = Field(default=0, ge=0)
    """How often the cluster starts the job again after it failed; each goes on from the store."""
    wait_s: float = Field(default=60.0, gt=0)
    """Seconds to wait for an answer of the cluster."""

    @field_validator("*")
    @classmethod
    def _honoured(cls, value: Any, info: ValidationInfo) -> Any:
        if reason := cls.cannot.get(info.field_name or ""):
            raise ValueError(f"not for this kind: {reason}; leave it out")
        return value

    @field_validator("env")
    @classmethod
    def _plain_names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if not _VARIABLE.fullmatch(name):
                raise ValueError(f"{name!r} is not a variable's name; values are not written into profiles")
        return names

    @field_validator("mounts")
    @classmethod
    def _absolute(cls, mounts: dict[str, Any]) -> dict[str, Any]:
        for path in mounts:
            if not path.startswith("/"):
                raise ValueError(f"{path!r}: expected an absolute path on the nodes")
        return mounts
