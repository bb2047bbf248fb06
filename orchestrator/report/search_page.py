"""The page of a search: its best trial, the table, history, parallel coordinates and curves. Pure."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from orchestrator.report.curves import Line, draw
from orchestrator.report.page import style, template
from orchestrator.search import Search
from orchestrator.trials import Row, best_of, ranked
from orchestrator.yaml import write_values

PLOTS = ("history", "parallel")
_SECTIONS = {
    "best": "Best trial",
    "trials": "Trials",
    "history": "Trial after trial",
    "parallel": "Parallel coordinates",
    "curves": "Curves",
    "space": "What was searched",
}


def render_search(
    name: str,
    search_id: str,
    rows: Sequence[Row],
    search: Search,
    document: Mapping[str, Any],
    best_yaml: str | None,
    plots: Mapping[str, bytes],
) -> str:
    """The whole page as text. `document`: the experiment; `best_yaml`: that of the best trial; `plots`: PNGs by name,
    none before a trial is done."""
    best = best_of(rows, search)
    drawn = {name: _uri("image/png", plots[name]) if name in plots else None for name in PLOTS}
    page: str = template("search.html").render(
        name=name, id=search_id, rows=ranked(rows, search), search=search, best=best, plots=drawn, sections=_SECTIONS,
        best_uri=_uri("text/yaml", (best_yaml or "").encode()), curves=_curves(rows, search), style=style(),
        seconds=sum(row.seconds for row in rows), reused=sum(row.reused for row in rows),
        computed=sum(row.computed for row in rows), yaml=write_values(document),
        space={setting: _told(one.model_dump(exclude_none=True)) for setting, one in search.dimensions.items()},
    )  # fmt: skip
    return page


def _curves(rows: Sequence[Row], search: Search) -> Markup:
    lines = [Line(f"trial {row.number}", row.curve, row.state == "stopped") for row in rows if row.curve]
    return draw(f"{search.metric} of each trial over steps", search.metric, lines) if lines else Markup("")


def _told(distribution: Mapping[str, Any]) -> str:
    """`loguniform 1e-05, 0.1`."""
    return "; ".join(
        f"{kind} {', '.join(str(value) for value in values)}" for kind, values in distribution.items()
    )


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64," + base64.b64encode(data).decode()
