"""Lines of a file that may still grow."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

LOOK_S = 0.2


def lines(path: Path, over: Callable[[], bool]) -> Iterator[str]:
    """Until `over`, which is asked before each look, so that nothing written before the end is missed."""
    with path.open(errors="replace") as log:
        begun = ""
        while True:
            last = over()
            *whole, begun = (begun + log.read()).split("\n")
            yield from whole
            if last:
                break
            time.sleep(LOOK_S)
        if begun:
            yield begun
