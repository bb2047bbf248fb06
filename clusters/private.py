"""Files that hold what others must not read: tokens, variables, what is known of jobs."""

import os
from pathlib import Path


def write_private(path: Path, text: str) -> None:
    """Writes a file for its owner alone (0600)."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
        out.write(text)
