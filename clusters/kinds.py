"""The kinds of cluster, by name: each is one module, imported when it is used."""

from importlib import import_module
from typing import cast

from clusters.launcher import Kind
from orchestrator.errors import UserError, nearest

KINDS = {
    "local": "clusters.local_job",
    "existing": "clusters.existing",
    "kubernetes": "clusters.kubernetes",
    "slurm": "clusters.slurm",
    "skypilot": "clusters.skypilot",
}


def find_kind(name: str) -> Kind:
    """Raises UserError where there is no such kind."""
    if name not in KINDS:
        raise UserError(f"there is no kind of cluster {name!r}; {nearest(name, KINDS)}")
    return cast(Kind, import_module(KINDS[name]))
