"""Tensors in files that others have written, read without running any code in them."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from tasks.data.digest import digest_of_files
from tasks.dataset_distillation.foreign_path import ForeignPath

Tensors = dict[str, Tensor]


class DataFile(ForeignPath):
    """A .npz, .npy, .safetensors, .pt or .pth file, known by its content, not by where it lies."""

    def content_digest(self) -> str:
        return digest_of_files("file", {"file": Path(self.path)})

    def read(self) -> Tensors:
        """Its tensors by name; a file of a single tensor without a name has the name "".

        ValueError where the file is missing, of another kind, or damaged.
        """
        path = Path(self.path)
        reader = _READERS.get(path.suffix)
        if reader is None:
            raise ValueError(
                f"{path}: found the suffix {path.suffix!r}, expected one of {', '.join(_READERS)}"
            )
        try:
            return reader(path)
        except FileNotFoundError as error:
            raise ValueError(f"{path}: no such file; correct the path, or put it there") from error
        except Exception as error:
            # Parsers of foreign files fail in many ways, all of which mean the same to the user.
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ValueError(f"{path}: not a readable {path.suffix} file of tensors: {reason}") from error

    def tensor(self, name: str) -> Tensor:
        """The tensor `name`, or the only one there is. ValueError where there are others only."""
        return pick(self.read(), name, self.path)


def pick(tensors: Mapping[str, Tensor], name: str, where: str) -> Tensor:
    """The tensor `name`, or the only one there is; `where` names the file in the message."""
    if name in tensors:
        return tensors[name]
    if len(tensors) != 1:
        raise ValueError(
            f"{where}: holds {', '.join(tensors) or 'nothing'}; expected a tensor named {name!r}"
        )
    return next(iter(tensors.values()))


def _npz(path: Path) -> Tensors:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def _npy(path: Path) -> Tensors:
    return {"": torch.from_numpy(np.load(path, allow_pickle=False))}


def _pt(path: Path) -> Tensors:
    found = torch.load(path, map_location="cpu", weights_only=True)
    named = found if isinstance(found, Mapping) else {"": found}
    tensors = {
        name: torch.tensor(value) if isinstance(value, float) else value for name, value in named.items()
    }
    other = [type(value).__name__ for value in tensors.values() if not isinstance(value, Tensor)]
    if other:
        raise ValueError(f"it holds a {other[0]}, expected a tensor or named tensors")
    return {str(name): value.detach() for name, value in tensors.items()}


_READERS: dict[str, Callable[[Path], Tensors]] = {
    ".npz": _npz,
    ".npy": _npy,
    ".safetensors": load_file,
    ".pt": _pt,
    ".pth": _pt,
}
