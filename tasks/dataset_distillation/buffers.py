"""Reads the expert buffers of MTT's published code: replay_buffer_0.pt, replay_buffer_1.pt, ...

A file is a pickled list of experts; an expert a list of snapshots, at initialisation and after each epoch;
a snapshot a list of tensors in the order of the network's parameters.
"""

import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

Expert = Sequence[Sequence[Tensor]]


def buffer_files(path: Path) -> list[Path]:
    """The buffer files at `path`, itself one or a folder of them, in the order of their numbers."""
    if not path.exists():
        raise FileNotFoundError(f"path: {path} does not exist; give a replay_buffer_*.pt or its folder")
    if path.is_file():
        return [path]
    found = sorted(path.glob("replay_buffer_*.pt"), key=_number)
    if not found:
        raise ValueError(f"path: no replay_buffer_*.pt in the folder {path}")
    return found


def _number(path: Path) -> tuple[int, str]:
    digits = re.search(r"\d+", path.stem)
    return (int(digits[0]) if digits else -1, path.name)


def read_buffer(path: Path) -> list[Expert]:
    """The experts of one file, mapped into memory where its format allows, not read as a whole.

    Loads tensors and lists only, never code. ValueError where the file is something else.
    """
    try:
        experts = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"{path}: not a buffer of trajectories: {reason}") from error
    check_structure(experts, path)
    return experts


def check_structure(experts: object, path: Path) -> None:
    """ValueError unless `experts` is a list of experts, each a list of snapshots, each a list of tensors."""
    for expert in _items(experts, "experts", path):
        for snapshot in _items(expert, "snapshots", path):
            strangers = [item for item in _items(snapshot, "tensors", path) if not isinstance(item, Tensor)]
            if strangers:
                raise ValueError(f"{path}: expected a list of tensors, found a {type(strangers[0]).__name__}")


def _items(value: object, content: str, path: Path) -> Sequence[object]:
    if isinstance(value, list | tuple) and value:
        return value
    found = "an empty list" if value in ([], ()) else f"a {type(value).__name__}"
    raise ValueError(f"{path}: expected a list of {content}, found {found}")


def check_shapes(expert: Expert, shapes: Mapping[str, tuple[int, ...]], where: str) -> None:
    """ValueError that names the first parameter in which the expert differs from the network's shapes."""
    for epoch, snapshot in enumerate(expert):
        found = [tuple(tensor.shape) for tensor in snapshot]
        for index, (name, expected) in enumerate(shapes.items()):
            if index >= len(found) or found[index] != expected:
                shape = found[index] if index < len(found) else "none"
                raise ValueError(
                    f"{where}: trajectories of another network: at epoch {epoch} parameter {name} has shape "
                    f"{shape}, the network asks for {expected}; set network to the one that was trained"
                )
        if len(found) > len(shapes):
            raise ValueError(
                f"{where}: trajectories of another network: at epoch {epoch} {len(found)} parameters, "
                f"the network has {len(shapes)}; set network to the one that was trained"
            )


def flat_snapshots(expert: Expert, last_epoch: int) -> Tensor:
    """The first last_epoch + 1 snapshots as rows (last_epoch + 1, P)."""
    rows = [torch.cat([tensor.reshape(-1) for tensor in snapshot]) for snapshot in expert[: last_epoch + 1]]
    return torch.stack(rows)
