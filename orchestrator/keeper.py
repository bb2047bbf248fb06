"""Keeps the leases of a driver: takes them, gives signs of life from a thread of its own, gives them back."""

import threading
import time
from collections.abc import Iterable
from queue import SimpleQueue

from orchestrator.errors import LimbeckError
from orchestrator.store.leases import Lease, Leases

BEAT_S = 3.0
"""Seconds between heartbeats."""
ASK_S = 1.0
"""Seconds between two looks at a lease that another holds."""


class Keeper:
    """Its thread beats while the driver is busy; all else is called from the driver's thread.

    Where the store takes no heartbeat, work goes on and each beat is tried again: what the workers commit
    is safe anyway. Whether another driver took over meanwhile is found by the first beat that gets through.
    """

    def __init__(self, leases: Leases, run_id: str, *, beat_s: float = BEAT_S, ask_s: float = ASK_S) -> None:
        self._leases, self._run_id, self._beat_s, self._ask_s = leases, run_id, beat_s, ask_s
        self._held: dict[str, Lease] = {}
        self._lost: set[str] = set()
        self._asked: dict[str, tuple[float, str]] = {}
        self._told: SimpleQueue[str] = SimpleQueue()
        self._trouble = False
        self._error: Exception | None = None
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def ask(self, key: str, inputs: Iterable[str] = ()) -> str | None:
        """Takes the lease of a stage: None once it is ours, before that who holds it."""
        if key in self._held:
            return "another stage of this run"
        when, holder = self._asked.get(key, (-self._ask_s, ""))
        if time.monotonic() - when < self._ask_s:
            return holder
        found = self._leases.take(key, self._run_id, inputs)
        if not isinstance(found, Lease):
            self._asked[key] = time.monotonic(), str(found)
            return str(found)
        self._asked.pop(key, None)
        self._lost.discard(key)
        self._held[key] = found
        self._start()
        return None

    def lost(self, key: str) -> bool:
        """Whether another took over a lease that was ours."""
        return key in self._lost

    def release(self, key: str) -> None:
        """Gives a lease back; nothing to do where it is not ours."""
        with self._lock:
            lease = self._held.pop(key, None)
            try:
                if lease:
                    self._leases.release(lease)
            except LimbeckError as error:
                self._tell(
                    f"a lease cannot be given back ({error}); whoever wants it waits until it is silent"
                )

    def close(self) -> None:
        """Gives all back and ends the thread."""
        self._ended.set()
        for key in list(self._held):
            self.release(key)
        if self._thread:
            self._thread.join()

    def told(self) -> list[str]:
        """What a person should know since the last call. Raises what ended the thread."""
        if self._error:
            raise self._error
        return [self._told.get() for _ in range(self._told.qsize())]

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._beat, name="leases", daemon=True)
            self._thread.start()

    def _beat(self) -> None:
        try:
            while not self._ended.wait(self._beat_s):
                for key in list(self._held):
                    with self._lock:
                        self._sign(key)
        except Exception as error:  # noqa: BLE001  raised again in the driver's thread
            self._error = error

    def _sign(self, key: str) -> None:
        lease = self._held.get(key)
        try:
            if lease and not self._leases.beat(lease):
                del self._held[key]
                self._lost.add(key)
        except LimbeckError as error:
            if not self._trouble:
                self._tell(
                    f"the store takes no heartbeat ({error}); work goes on and it is tried again, but another "
                    "driver may take over"
                )
            self._trouble = True
            return
        if self._trouble:
            self._tell("the store takes heartbeats again")
        self._trouble = False

    def _tell(self, message: str) -> None:
        self._told.put(message)
