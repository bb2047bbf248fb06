"""Runs a command that must not outlive its starter: `python -I guard.py COMMAND [ARGUMENT ...]`.

The starter holds the other end of standard input, and starts this in a session of its own. When that end
closes, because it was closed or because the starter died, the whole process group is ended: asked first,
killed after a moment.
"""

import os
import signal
import subprocess
import sys
import threading
import time

_GRACE_S = 3.0


def main(command: list[str]) -> None:
    """Returns never: the group is killed at the end, this process with it."""
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGINT, lambda *_: None)
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    starter = threading.Thread(target=sys.stdin.buffer.read, daemon=True)
    starter.start()
    while starter.is_alive() and child.poll() is None:
        starter.join(0.1)
    os.killpg(0, signal.SIGTERM)
    deadline = time.monotonic() + _GRACE_S
    while child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1:])
