"""Where things lie on this machine that belong to a store but cannot lie in it."""

import hashlib
import os
from pathlib import Path

DEFAULT_STORE = "limbeck-store"
"""A folder here, where none is named."""


def cache_folder() -> Path:
    """`LIMBECK_CACHE`, else ~/.cache/limbeck. All in it can be made or fetched again."""
    return Path(os.environ.get("LIMBECK_CACHE") or "~/.cache/limbeck").expanduser().absolute()


def state_folder() -> Path:
    """`LIMBECK_HOME`, else ~/.local/state/limbeck: the user's own jobs and cluster profiles."""
    return Path(os.environ.get("LIMBECK_HOME") or "~/.local/state/limbeck").expanduser().absolute()


def is_remote(store_uri: str) -> bool:
    """Whether a store, by its own `uri`, lies elsewhere than in a folder."""
    return "://" in store_uri and not store_uri.startswith("file://")


def home(store_uri: str) -> Path:
    """The folder for what has to be local: event logs, pictures, MLflow's files, the server's log.

    It is the store itself where that is a folder, else one in the cache, the same for every process here.
    """
    if not is_remote(store_uri):
        return Path(store_uri)
    return cache_folder() / "stores" / hashlib.sha256(store_uri.encode()).hexdigest()[:16]
