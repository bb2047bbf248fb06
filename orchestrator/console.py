"""What the user sees while work goes on: one line a stage on a terminal, plain lines elsewhere."""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console as RichConsole
from rich.live import Live
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

_PLAIN_EVERY_S = 10.0
_MANY_ROWS = 200
"""A table of more rows is laid out here, without wrapping: rich takes seconds for thousands."""


class Console:
    """Messages go to standard error, answers to standard output; with `--json` only one object goes there."""

    def __init__(self, *, as_json: bool = False, quiet: bool = False) -> None:
        self.as_json = as_json
        self._out = RichConsole(highlight=False, soft_wrap=not sys.stdout.isatty())
        self._err = RichConsole(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty())
        self._quiet = quiet
        self._live: Live | None = None
        self._lines: dict[str, str] = {}
        self._last: dict[str, Mapping[str, float]] = {}
        self._shown: dict[str, float] = {}

    def say(self, text: str) -> None:
        """A message for a person."""
        if not self._quiet:
            self._err.print(Text(text))

    def answer(self, value: Any) -> None:
        """The object that `--json` promises."""
        sys.stdout.write(json.dumps(value, indent=2) + "\n")
        sys.stdout.flush()

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """A table on standard output; numbers are aligned to the right."""
        if self.as_json:
            return
        if len(rows) > _MANY_ROWS:
            sys.stdout.write(_plain_table(columns, rows))
            return
        table = Table(
            title=Text(title, style="bold") if title else None,
            title_justify="left",
            box=None,
            pad_edge=False,
            padding=(0, 2, 0, 0),
        )
        for index, column in enumerate(columns):
            number = any(isinstance(row[index], int | float) for row in rows)
            last = index == len(columns) - 1
            table.add_column(column, justify="right" if number else "left", no_wrap=not last)
        for row in rows:
            table.add_row(*(Text(shown(value)) for value in row))
        RichConsole(highlight=False, width=None if sys.stdout.isatty() else 160).print(table)

    def print(self, text: str) -> None:
        """A line on standard output."""
        if not self.as_json:
            self._out.print(Text(text))

    @property
    def colours(self) -> bool:
        """Whether standard output is a terminal that shows colours."""
        return self._out.color_system is not None

    @property
    def width(self) -> int:
        """Columns of standard output."""
        return self._out.width

    def draw(self, what: Tree | Text) -> None:
        """A tree, or a picture made of signs, on standard output."""
        self._out.print(what)

    def metrics(self, stage: str, values: Mapping[str, float]) -> None:
        """Remembers the last values of a stage for its progress line."""
        self._last[stage] = values

    def progress(
        self,
        stage: str,
        *,
        done: int,
        computed: int,
        total: int,
        failed: int,
        seconds: float,
        workers: int,
    ) -> None:
        """One stage under way: shards, rate, time left, failures, last metric."""
        left = total - done - computed - failed
        remaining = f", {duration(left * seconds / computed)} left" if computed and left else ""
        rate = f", {60 * computed / seconds:.1f}/min" if computed and seconds else ""
        values = ", ".join(f"{name} {value:.4g}" for name, value in self._last.get(stage, {}).items())
        last = f" | {values}" if values else ""
        at_work = f"{workers} at work" if workers else "workers start"
        wrong = f", {failed} failed" if failed else ""
        self._lines[stage] = (
            f"{stage}: {done + computed}/{total} shards, {at_work}, {duration(seconds)}"
            f"{rate}{remaining}{wrong}{last}"
        )
        self._draw(stage)

    def stage(self, stage: str, state: str, seconds: float) -> None:
        """A stage came to its end."""
        self._lines.pop(stage, None)
        took = f" in {duration(seconds)}" if seconds else ""
        self._above(f"{stage}: {state}{took}")

    def failure(self, stage: str, shard: str, error: str) -> None:
        """A shard was put aside."""
        self._above(f"{stage} {shard}: {error}")

    def note(self, stage: str, text: str) -> None:
        """What a person should know of a stage."""
        self._above(f"{stage}: {text}")

    def under_way(self, name: str, text: str, details: Sequence[str] = ()) -> None:
        """What goes on: a line now and then; on a terminal it stands, with one more for each detail."""
        self._lines = {name: f"{name}: {text}", **{detail: f"  {detail}" for detail in details}}
        self._draw(name)

    def close(self) -> None:
        """Leaves the terminal as it was."""
        if self._live:
            self._live.stop()
            self._live = None

    def _above(self, text: str) -> None:
        if self._live:
            self._live.update(self._picture())
        self.say(text)

    def _draw(self, stage: str) -> None:
        if self._quiet:
            return
        if self._err.is_terminal:
            if self._live is None:
                self._live = Live(console=self._err, refresh_per_second=4, transient=True)
                self._live.start()
            self._live.update(self._picture())
        elif time.monotonic() - self._shown.get(stage, 0.0) > _PLAIN_EVERY_S:
            self._shown[stage] = time.monotonic()
            self.say(self._lines[stage])

    def _picture(self) -> Text:
        return Text("\n".join(self._lines.values()), overflow="ellipsis", no_wrap=True)


def _plain_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Columns as wide as their longest cell, numbers to the right."""
    cells = [list(columns), *([shown(value) for value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    right = [any(isinstance(value, int | float) for value in column) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in cells
    )
    return "\n".join(lines) + "\n"


def shown(value: Any) -> str:
    """A value as a cell of a table."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def duration(seconds: float | None) -> str:
    """Seconds in words: 42 s, 3 min 5 s, 2 h 10 min."""
    if seconds is None:
        return "unknown"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def size(count: int | float) -> str:
    """Bytes in words: 512 B, 3.2 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def moment(time_ms: int) -> str:
    """Milliseconds since 1970 as local time."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(time_ms / 1000))
