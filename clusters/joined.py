"""Waits until all nodes of a Ray are there; then becomes the command that is given.

PYTHON -m clusters.joined ADDRESS NODES SECONDS [COMMAND ...]
"""

import logging
import os
import sys
import time
from collections.abc import Sequence

_LOOK_S = 2.0


def trouble(address: str, wanted: int, seconds: float) -> str | None:
    """None once `wanted` nodes are alive; else, after so many seconds, what is wrong."""
    import ray

    deadline, found = time.monotonic() + seconds, "no Ray"
    while True:
        try:
            if not ray.is_initialized():
                ray.init(
                    address=address, logging_level=logging.ERROR, log_to_driver=False, configure_logging=False
                )
            there = sum(node["Alive"] for node in ray.nodes())  # type: ignore[no-untyped-call]
            if there >= wanted:
                ray.shutdown()
                return None
            found = f"{there} of {wanted} nodes have joined Ray"
        except (OSError, RuntimeError) as error:  # it is still starting
            found = f"no Ray that answers: {error}"
        if time.monotonic() > deadline:
            return f"{found} at {address} after {seconds:g} s"
        time.sleep(_LOOK_S)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line above."""
    address, wanted, seconds, *command = sys.argv[1:] if argv is None else argv
    try:
        wrong = trouble(address, int(wanted), float(seconds))
    except KeyboardInterrupt:
        return 130
    if wrong:
        sys.stderr.write(f"limbeck: {wrong}\n")
        return 1
    if command:
        sys.stdout.flush()
        os.execvp(command[0], command)
    return 0


if __name__ == "__main__":
    sys.exit(main())
