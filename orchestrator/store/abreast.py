"""Many requests of one kind, several under way at a time where each takes a round trip."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")
_BUNDLE = 10
"""Requests that a thread makes one after another."""


def abreast(at_once: int, request: Callable[[A], B], items: Iterable[A]) -> Iterator[B]:
    """What `request` gives for each item, in order; never more than a few answers wait in memory. With `at_once`
    1, as of a folder, everything happens in this thread. An error of a request is raised in its turn."""
    if at_once == 1:
        yield from map(request, items)
        return
    left, begun = iter(items), deque[Future[list[B]]]()
    with ThreadPoolExecutor(at_once) as pool:
        while True:
            while len(begun) < 2 * at_once and (bundle := list(islice(left, _BUNDLE))):
                begun.append(pool.submit(lambda some: [request(item) for item in some], bundle))
            if not begun:
                return
            yield from begun.popleft().result()
