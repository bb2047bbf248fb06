"""Finds clusters by name: profiles of the user's own, then those that come with Limbeck; or a file by its path."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clusters.kinds import KINDS, find_kind
from clusters.launcher import Kind
from clusters.profile import Profile
from orchestrator.errors import UserError, nearest
from orchestrator.experiment import complaint, validated
from orchestrator.places import state_folder
from orchestrator.yaml import Document, read_document

_OURS = Path(__file__).parent / "profiles"


@dataclass(frozen=True)
class Cluster:
    """A profile, and the module that can work with it."""

    name: str
    source: str
    """Where it was read."""
    kind: Kind
    profile: Profile
    document: Mapping[str, Any]
    """The profile's plain values as they were written."""


def names() -> dict[str, Path]:
    """Name to file of every profile; the user's own hide ours of the same name."""
    folders = (_OURS, state_folder() / "profiles")
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}


def find_cluster(name: str) -> Cluster:
    """By name, or by the path of a file. UserError names the file, the line and the field of a mistake."""
    if "/" in name or name.endswith((".yaml", ".yml")):
        return _read(Path(name).expanduser())
    known = names()
    if name not in known:
        raise UserError(
            f"there is no cluster {name!r}; {nearest(name, known)}; or give the path of a profile, or put it "
            f"into {state_folder() / 'profiles'}"
        )
    return _read(known[name])


def cluster_of(name: str, document: Mapping[str, Any]) -> Cluster:
    """A cluster from the values that a job was submitted with."""
    return _checked(name, Document(dict(document), {}, f"profile of {name}"))


def _read(path: Path) -> Cluster:
    return _checked(path.stem, read_document(path, "a profile", f"`kind`, one of {', '.join(KINDS)}"))


def _checked(name: str, document: Document) -> Cluster:
    kind = document.values.get("kind")
    if not isinstance(kind, str):
        found = "missing" if kind is None else f"found {kind!r}"
        raise UserError(complaint(("kind",), document, f"{found}; expected one of {', '.join(KINDS)}"))
    if kind not in KINDS:
        raise UserError(complaint(("kind",), document, f"found {kind!r}; {nearest(kind, KINDS)}"))
    module = find_kind(kind)
    profile = validated(module.Profile, document.values, (), document)
    return Cluster(name, document.source, module, profile, document.values)
