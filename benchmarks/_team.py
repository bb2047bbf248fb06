"""Processes that time the same work side by side, for the benchmarks of methods."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from typing import Any

CONTEXT = multiprocessing.get_context("spawn")
KEEP_FREED = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}
"""For processes that keep what is freed, as the engine's workers do: glibc would hand large blocks back after every
operation and have them zeroed anew for the next."""


class Team:
    """Worker processes that do the same thing at the same time; `make` is called in each, and makes the worker."""

    def __init__(
        self, make: Callable[[], Any], size: int, stack: ExitStack, variables: Mapping[str, str]
    ) -> None:
        self.pipes = []
        with environment(variables):
            for _ in range(size):
                here, there = CONTEXT.Pipe()
                process = CONTEXT.Process(target=serve, args=(make, there), daemon=True)
                process.start()
                stack.callback(process.join)
                stack.callback(here.send, None)
                self.pipes.append(here)

    def ask(self, workers: int, method: str, *arguments: Any) -> list[Any]:
        """The answers of so many of them."""
        for pipe in self.pipes[:workers]:
            pipe.send((method, arguments))
        return [pipe.recv() for pipe in self.pipes[:workers]]


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Starts processes under these variables."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def serve(make: Callable[[], Any], pipe: Connection) -> None:
    """Does what is asked until nothing more is."""
    worker = make()
    while (asked := pipe.recv()) is not None:
        method, arguments = asked
        pipe.send(getattr(worker, method)(*arguments))
