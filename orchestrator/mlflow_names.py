"""Names and values as MLflow takes them. Pure."""

import hashlib
import posixpath
import re

_LENGTH = 250
"""MLflow 3.17's limit for a name, in characters."""


def mlflow_key(name: str) -> str:
    """`name` as MLflow takes names of metrics, parameters and tags; distinct names stay distinct.

    `loss/expert=3,seed=1` becomes `loss/expert:3 seed:1` and `scores[width=32,seed=1].accuracy` becomes
    `scores/width:32 seed:1 .accuracy`; what cannot be told apart so gets a hash of the name at its end.
    """
    if "]" in name and (point := re.fullmatch(r"([\w-]+)\[([\w.=,-]+)\](\.[\w.-]+)", name, re.ASCII)):
        key = f"{point[1]}/{point[2]} {point[3]}"
    else:
        key = name if re.fullmatch(r"[\w./=,-]+", name, re.ASCII) and ",." not in name else ""
    key = key.replace("=", ":").replace(",", " ")
    return key if _is_path(key) and len(key) <= _LENGTH else _hashed(name)


def image_key(name: str) -> str:
    """`name` as MLflow's image view takes it: part of a file's name, without the signs that end it there."""
    fits = re.fullmatch(r"[\w./=, -]+", name, re.ASCII) and len(name) <= 120
    return name if fits and _is_path(name) else _hashed(name)


def shorten(text: str, length: int) -> str:
    """`text`, cut with an ellipsis where it is longer than `length`."""
    return text if len(text) <= length else f"{text[: length - 3]}..."


def _is_path(key: str) -> bool:
    """Whether MLflow takes it for a relative path in its shortest form, and `_hashed` did not make it."""
    ends = re.search(r"-[0-9a-f]{12}$", key)
    return bool(key) and not ends and posixpath.normpath(key) == key and not key.startswith((".", "/", " "))


def _hashed(name: str) -> str:
    readable = re.sub(r"[^A-Za-z0-9_.-]+", "_", name)[:100].lstrip(".") or "_"
    return f"{readable}-{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:12]}"


def path_part(name: str) -> str:
    """`name` as one part of a path."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]{1,80}", name) and _is_path(name) else _hashed(name)
