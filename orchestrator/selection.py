"""Which artifacts a listing shows, and in which order. Pure."""

import datetime
import operator
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from orchestrator.errors import UserError, nearest
from orchestrator.store.index import Row

_SIGNS: Mapping[str, Callable[[float, float], bool]] = {
    ">=": operator.ge, "<=": operator.le, "!=": operator.ne, "==": operator.eq, "=": operator.eq,
    ">": operator.gt, "<": operator.lt,
}  # fmt: skip
_CONDITION = re.compile(r"(.+?)\s*(>=|<=|!=|==|=|>|<)\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)")
_AGO = re.compile(r"(\d+)([mhdw])")
_SECONDS = {"m": 60, "h": 3600, "d": 86400, "w": 604800}
_NUMBERS = {"made": "created", "size": "bytes", "shards": "shards"}
_NAMES = ("stage", "kind", "task")


@dataclass(frozen=True)
class Condition:
    """What a metric is to be: `scores.distilled_accuracy>0.9`."""

    metric: str
    sign: str
    number: float

    @classmethod
    def parsed(cls, text: str) -> Self:
        """Raises UserError for anything else."""
        found = _CONDITION.fullmatch(text.strip())
        if found is None:
            raise UserError(
                f"--where {text!r}: expected a metric, one of {' '.join(_SIGNS)} and a number, such as "
                "'scores.distilled_accuracy>0.9'"
            )
        return cls(found[1], found[2], float(found[3]))

    def holds(self, row: Row) -> bool:
        value = metric(row, self.metric)
        return value is not None and _SIGNS[self.sign](value, self.number)


@dataclass(frozen=True, kw_only=True)
class Selection:
    """All that is asked of a listing."""

    kind: str | None = None
    task: str | None = None
    tags: Sequence[str] = ()
    """All of them."""
    where: Sequence[Condition] = ()
    """All of them."""
    since: int | None = None
    """Milliseconds since 1970."""
    sort: str = "made"
    reverse: bool = False
    limit: int | None = None

    @classmethod
    def parsed(
        cls, *, kind: str | None, task: str | None, tags: Sequence[str], where: Sequence[str],
        since: str | None, sort: str, reverse: bool, limit: int | None,
    ) -> Self:  # fmt: skip
        """From what the user typed. Raises UserError."""
        return cls(
            kind=kind, task=task, tags=tags, where=[Condition.parsed(text) for text in where],
            since=None if since is None else moment(since, time.time()), sort=sort, reverse=reverse, limit=limit,
        )  # fmt: skip

    @property
    def metrics(self) -> list[str]:
        """Those that are asked for, each once."""
        sort = [] if self.sort in _NUMBERS or self.sort in _NAMES else [self.sort]
        return list(dict.fromkeys([*(one.metric for one in self.where), *sort]))

    def of(self, rows: Iterable[Row], tags: Mapping[str, Sequence[str]]) -> list[Row]:
        """Numbers come largest first, so dates newest first; names by the alphabet; what lacks the metric last.

        `tags` maps ids to tags. Raises UserError for a metric that no row has.
        """
        every = list(rows)
        self._check(every)
        found = [row for row in every if self._fits(row, tags.get(row.id, ()))]
        found.sort(key=lambda row: (row.created, row.id), reverse=True)
        if self.sort in _NAMES:
            found.sort(key=lambda row: str(getattr(row, self.sort)), reverse=self.reverse)
        elif self.sort in _NUMBERS:
            found.sort(key=lambda row: int(getattr(row, _NUMBERS[self.sort])), reverse=not self.reverse)
        else:
            found = self._by_metric(found)
        return found[: self.limit]

    def _by_metric(self, rows: Sequence[Row]) -> list[Row]:
        known = [(value, row) for row in rows if (value := metric(row, self.sort)) is not None]
        known.sort(key=lambda pair: pair[0], reverse=not self.reverse)
        return [row for _, row in known] + [row for row in rows if metric(row, self.sort) is None]

    def _fits(self, row: Row, tags: Sequence[str]) -> bool:
        return (
            self.kind in (None, row.kind)
            and self.task in (None, row.task)
            and set(self.tags) <= set(tags)
            and (self.since is None or row.created >= self.since)
            and all(one.holds(row) for one in self.where)
        )

    def _check(self, rows: Sequence[Row]) -> None:
        for name in self.metrics:
            if rows and all(metric(row, name) is None for row in rows):
                known = {f"{row.stage.partition('[')[0]}.{one}" for row in rows for one in row.metrics}
                also = f", {', '.join([*_NUMBERS, *_NAMES])}" if name == self.sort else ""
                raise UserError(f"no artifact has a metric {name!r}; {nearest(name, known)}{also}")


def metric(row: Row, name: str) -> float | None:
    """A row's metric by its own name, or with the stage before it: the whole, or without the matrix point."""
    for prefix in ("", f"{row.stage}.", f"{row.stage.partition('[')[0]}."):
        if name.startswith(prefix) and (value := row.metrics.get(name.removeprefix(prefix))) is not None:
            return value
    return None


def moment(text: str, now: float) -> int:
    """`2026-11-26`, `2026-11-26T12:30` in local time, or `12h` before `now` (seconds since 1970), as
    milliseconds since 1970. Raises UserError."""
    if ago := _AGO.fullmatch(text):
        return int((now - int(ago[1]) * _SECONDS[ago[2]]) * 1000)
    try:
        return int(datetime.datetime.fromisoformat(text).timestamp() * 1000)
    except ValueError:
        raise UserError(
            f"--since {text!r}: expected a date or time such as 2026-11-26 or 2026-11-26T12:30, or how long ago: "
            "30m, 12h, 3d, 2w"
        ) from None
