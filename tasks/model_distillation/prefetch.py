"""Makes things in a thread before they are asked for."""

import queue
import threading
from collections.abc import Generator, Iterator
from typing import Any, TypeVar

import torch

Item = TypeVar("Item")


def ahead(items: Iterator[Item], depth: int) -> Generator[Item, None, None]:
    """The same items, up to `depth` of them made in a thread before they are asked for.

    An error of theirs is raised here, in its turn. The thread ends with the iterator. It computes on one core: two
    OpenMP teams on the same cores wait for each other at the end of every operation, and cost many times the work.
    """
    ready: queue.Queue[tuple[str, Any]] = queue.Queue(depth)
    closed = threading.Event()
    threads = torch.get_num_threads()

    def work() -> None:
        torch.set_num_threads(1)
        try:
            for item in items:
                if not _put(ready, ("item", item), closed):
                    return
            _put(ready, ("end", None), closed)
        except Exception as error:  # noqa: BLE001  raised where the items are asked for
            _put(ready, ("error", error), closed)
        finally:
            torch.set_num_threads(threads)  # which is also what threads of later begin with

    thread = threading.Thread(target=work, name="ahead", daemon=True)
    thread.start()
    try:
        while (found := ready.get())[0] == "item":
            yield found[1]
        if found[0] == "error":
            raise found[1]
    finally:
        closed.set()
        thread.join()


def _put(ready: "queue.Queue[tuple[str, Any]]", item: tuple[str, Any], closed: threading.Event) -> bool:
    """Whether there was room before the reader went away."""
    while not closed.is_set():
        try:
            ready.put(item, timeout=0.1)
        except queue.Full:
            continue
        return True
    return False
