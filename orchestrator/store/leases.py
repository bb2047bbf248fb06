"""Leases: who may compute a stage. One owner at a time, by put-if-absent and heartbeats; no clock is shared.

    leases/<stage key>/<n>.json    the claim of generation n: who took it; never changes
    leases/<stage key>/<n>.beat    its heartbeat, replaced every few seconds; its last word is `released`

The highest generation counts. The next is claimed where that one is released, where its owner is seen to be
gone, or where it was silent for long enough by the watcher's own clock. Numbers only grow, so that of many
takers one wins. A collection drops whole folders, after which they begin again at 1: a taker that looked
before finds, after its claim, that what it built on is gone, and takes its claim back.
"""

import re
import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pydantic.dataclasses import dataclass as record

from orchestrator.errors import CorruptBlob
from orchestrator.store.bytes import Bytes, Entry
from orchestrator.store.owner import Owner, fate
from orchestrator.store.records import RecordT, decode, encode, now_ms

SILENCE_S = 15.0
"""A lease without a heartbeat for so long may be taken over."""
_FILE = re.compile(r"leases/([^/]+)/([1-9]\d*)\.(json|beat)")
Verdict = Literal["free", "mine", "held", "stale"]


@record(frozen=True, kw_only=True)
class Claim:
    """Who took a lease, and what for."""

    owner: Owner
    token: str
    """Tells it from every other claim."""
    run_id: str
    inputs: list[str]
    """The artifacts that the stage takes."""
    created: int

    def __str__(self) -> str:
        return f"run {self.run_id} on {self.owner.host} (process {self.owner.pid})"


@record(frozen=True, kw_only=True)
class Beat:
    """The last sign of life of the claim with this token."""

    token: str
    count: int
    released: bool = False


@dataclass(frozen=True)
class Sight:
    """What one look at a lease found: its highest generation, 0 where it was never taken."""

    generation: int = 0
    body: bytes = b""
    """The claim as it is written."""
    claim: Claim | None = None
    """None where it is damaged."""
    heart: bytes = b""
    """The heartbeat as it is written; every change of it is a sign of life."""
    released: bool = False

    def __str__(self) -> str:
        return str(self.claim) if self.claim else "a run whose claim is damaged"


@dataclass(frozen=True)
class Watch:
    """Since when (by the watcher's clock, in seconds) a lease has looked as it does."""

    heard: tuple[int, bytes, bytes]
    """Generation, claim and heartbeat: after a collection another claim may have the same number."""
    since: float


def watched(before: Watch | None, sight: Sight, now: float) -> Watch:
    """The watch after a sight that was taken at `now` or later."""
    heard = (sight.generation, sight.body, sight.heart)
    return before if before and before.heard == heard else Watch(heard, now)


def judge(sight: Sight, *, token: str, quiet_s: float, silence_s: float, gone: bool) -> Verdict:
    """Whether the lease that was seen may be taken over: `gone` says that its owner is seen to be."""
    if sight.claim and sight.claim.token == token:
        return "mine"
    if sight.generation == 0 or sight.released:
        return "free"
    return "stale" if gone or quiet_s >= silence_s else "held"


@dataclass
class Lease:
    """One that we took."""

    key: str
    generation: int
    claim: Claim
    beats: int = 0


@dataclass
class Leases:
    """The leases of a store, as one process takes, keeps and releases them. Errors are those of the bytes."""

    space: Bytes
    owner: Owner = field(default_factory=Owner.here)
    silence_s: float = SILENCE_S
    clock: Callable[[], float] = time.monotonic
    _watches: dict[str, Watch] = field(default_factory=dict)

    def take(self, key: str, run_id: str = "", inputs: Iterable[str] = ()) -> Lease | Sight:
        """Takes the lease if it may be taken; otherwise what was seen of who holds it. Ask again, with the
        same object: silence is counted from one call to the next."""
        while True:
            found = self._claimed(key, run_id, list(inputs))
            if isinstance(found, Sight):
                return found
            lease, base = found
            if self._top(key) == lease.generation and self._body(key, base.generation) == base.body:
                self._watches.pop(key, None)
                return lease
            self.space.delete(_path(key, lease.generation, "json"))

    def beat(self, lease: Lease) -> bool:
        """Gives a sign of life; False where the lease is lost, and its work is to stop."""
        lease.beats += 1
        return self._say(lease, released=False)

    def release(self, lease: Lease) -> bool:
        """Gives it up; False where it was lost already."""
        return self._say(lease, released=True)

    def _claimed(self, key: str, run_id: str, inputs: list[str]) -> tuple[Lease, Sight] | Sight:
        """Our claim and what it was built on, or who is before us. Climbs where others are faster."""
        claim = Claim(
            owner=self.owner, token=secrets.token_hex(8), run_id=run_id, inputs=inputs, created=now_ms()
        )
        base, now = Sight(), self.clock()
        sight = self._sight(key, self._top(key))
        while (verdict := self._judge(key, sight, claim.token, now)) in ("free", "stale"):
            lease, base, now = Lease(key, sight.generation + 1, claim), sight, self.clock()
            if self.space.put_if_absent(_path(key, lease.generation, "json"), encode(claim)):
                return lease, base
            sight = self._sight(key, lease.generation)
        # A request that was sent twice may find its own claim there.
        return (Lease(key, sight.generation, claim), base) if verdict == "mine" else sight

    def _judge(self, key: str, sight: Sight, token: str, now: float) -> Verdict:
        watch = self._watches[key] = watched(self._watches.get(key), sight, now)
        gone = sight.claim is not None and fate(sight.claim.owner) == "gone"
        return judge(sight, token=token, quiet_s=now - watch.since, silence_s=self.silence_s, gone=gone)

    def _say(self, lease: Lease, *, released: bool) -> bool:
        """Who finds a higher claim gives up for good, be that one taken back a moment later."""
        key, generation, claim = lease.key, lease.generation, lease.claim
        lost = self._top(key) != generation
        if self._body(key, generation) != encode(claim):
            return False
        beat = Beat(token=claim.token, count=lease.beats, released=released or lost)
        self.space.put(_path(key, generation, "beat"), encode(beat))
        return not lost

    def _top(self, key: str) -> int:
        return max((found[0] for found in _generations(self.space.list(f"leases/{key}"))), default=0)

    def _body(self, key: str, generation: int) -> bytes:
        return _read(self.space, _path(key, generation, "json")) if generation else b""

    def _sight(self, key: str, generation: int) -> Sight:
        return _sight(self.space, key, generation)


def lease_files(space: Bytes) -> dict[str, list[Entry]]:
    """Stage key to the files of its lease, the oldest generation first."""
    found = defaultdict(list)
    for entry in space.list("leases"):
        if named := _FILE.fullmatch(entry.path):
            found[named[1]].append((int(named[2]), entry.path, entry))
    return {
        key: [entry for *_, entry in sorted(files, key=lambda file: file[:2])] for key, files in found.items()
    }


def live_claim(space: Bytes, key: str, files: Sequence[Entry], before: float) -> Claim | None:
    """The claim under which the stage may be at work, by one look: it is neither released, nor is its
    owner seen to be gone, nor was it last heard of before this time (seconds since 1970)."""
    sight = _sight(space, key, max((found[0] for found in _generations(files)), default=0))
    if sight.claim is None or sight.released or fate(sight.claim.owner) == "gone":
        return None
    return sight.claim if max(entry.modified for entry in files) >= before else None


def _sight(space: Bytes, key: str, generation: int) -> Sight:
    if generation == 0:
        return Sight()
    heart = _read(space, _path(key, generation, "beat"))
    body = _read(space, _path(key, generation, "json"))
    claim, beat = _decoded(Claim, body), _decoded(Beat, heart)
    released = bool(claim and beat and beat.token == claim.token and beat.released)
    return Sight(generation, body, claim, heart, released)


def _generations(entries: Iterable[Entry]) -> list[tuple[int, Entry]]:
    named = [(_FILE.fullmatch(entry.path), entry) for entry in entries]
    return [(int(name[2]), entry) for name, entry in named if name and name[3] == "json"]


def _path(key: str, generation: int, kind: Literal["json", "beat"]) -> str:
    return f"leases/{key}/{generation}.{kind}"


def _read(space: Bytes, path: str) -> bytes:
    try:
        return space.read(path)
    except FileNotFoundError:
        return b""


def _decoded(kind: type[RecordT], body: bytes) -> RecordT | None:
    """None for a damaged record: whoever wrote it is judged by silence alone."""
    try:
        return decode(kind, body, "lease")
    except CorruptBlob:
        return None
