"""The page of a search: its best trial, the table, history, parallel coordinates and curves. Pure."""

import base64
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from orchestrator.report.curves import Line, draw
from orchestrator.report.page import style, template
from orchestrator.search import Search
from orchestrator.trials import Asked, Row, best_of, ranked
from orchestrator.yaml import write_values

_SECTIONS = {
    "best": "Best trial",
    "trials": "Trials",
    "history": "Trial after trial",
    "parallel": "Parallel coordinates",
    "curves": "Curves",
    "space": "What was searched",
    "again": "Search again",
}
_METRICS = 8
"""Further metrics that the table of trials shows."""


class Plot(NamedTuple):
    """A PNG for either kind of paper."""

    light: bytes
    dark: bytes


def render_search(
    asked: Asked,
    search_id: str,
    rows: Sequence[Row],
    best_yaml: str | None,
    plots: Mapping[str, Plot],
    pages: Mapping[int, str],
) -> str:
    """The whole page as text. `best_yaml`: the best trial's experiment; `plots`: `history` and `parallel`, none before
    a trial is done; `pages`: numbers of trials to where the pages of their runs lie, as seen from this one."""
    search, yaml = asked.search, write_values(asked.document)
    drawn = {name: _drawn(plots.get(name)) for name in ("history", "parallel")}
    page: str = template("search.html").render(
        name=asked.name, id=search_id, rows=ranked(rows, search), search=search, best=best_of(rows, search),
        plots=drawn, sections=_SECTIONS, best_uri=_uri("text/yaml", (best_yaml or "").encode()), pages=pages,
        curves=_curves(rows, search), style=style(), metrics=_metrics(rows, search),
        seconds=sum(row.seconds for row in rows), reused=sum(row.reused for row in rows),
        computed=sum(row.computed for row in rows), yaml=yaml, yaml_uri=_uri("text/yaml", yaml.encode()),
        space={setting: _told(one.model_dump(exclude_none=True)) for setting, one in search.dimensions.items()},
        command=f"limbeck tune {shlex.quote(asked.name)}.yaml", overrides=" ".join(asked.given),
        commit=asked.commit or "",
    )  # fmt: skip
    return page


def _metrics(rows: Sequence[Row], search: Search) -> list[str]:
    """Final metrics beside the one that is searched by, standard errors left out."""
    names = dict.fromkeys(name for row in rows for name in row.metrics if not name.endswith("_se"))
    return [name for name in names if not search.metric.endswith(f".{name}")][:_METRICS]


def _curves(rows: Sequence[Row], search: Search) -> Markup:
    lines = [Line(f"trial {row.number}", row.curve, row.state == "stopped") for row in rows if row.curve]
    return draw(f"{search.metric} of each trial over steps", search.metric, lines) if lines else Markup("")


def _told(distribution: Mapping[str, Any]) -> str:
    """`loguniform 1e-05, 0.1`."""
    return "; ".join(
        f"{kind} {', '.join(str(value) for value in values)}" for kind, values in distribution.items()
    )


def _drawn(plot: Plot | None) -> dict[str, str] | None:
    return plot and {paper: _uri("image/png", png) for paper, png in plot._asdict().items()}


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64," + base64.b64encode(data).decode()
