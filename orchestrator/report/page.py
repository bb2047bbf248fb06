"""The page: what the sections found, put into one HTML file that loads nothing else."""

import base64
import datetime
import functools
import shlex
from collections import defaultdict
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from orchestrator.console import duration, shown, size
from orchestrator.report import ancestors, graph
from orchestrator.report.curves import COLOURS, charts, measure
from orchestrator.report.numbers import number_tables
from orchestrator.report.pictures import pictures
from orchestrator.report.subject import StageView, Subject
from orchestrator.report.tables import SUMMARY, samples, tables
from orchestrator.yaml import write_values

_SECTIONS = {
    "results": "Results",
    "pictures": "Pictures",
    "curves": "Curves",
    "texts": "Texts",
    "lineage": "Lineage",
    "tables": "Tables",
    "time": "Time and disk",
    "failures": "Failures",
    "again": "Run it again",
}


def render(subject: Subject, state: str) -> str:
    """The whole page as text; `state` is the run's as it is now. The same run gives the same bytes."""
    run, found = subject.run, ancestors.boxes(subject)
    yaml = write_values(run.document)
    spent = None if run.ended is None else (run.ended - run.started) / 1000
    page: str = template("page.html").render(
        run=run, state=state, spent=spent, overrides=" ".join(run.overrides),
        numbers=number_tables(_metrics(subject)), pictures=pictures(subject), charts=charts(subject),
        samples=samples(subject), tables=tables(subject), summary=SUMMARY, boxes=found,
        graph=graph.draw(found) if found else Markup(""), stages=[_stage(stage) for stage in subject.stages],
        failures=subject.failures, made_with=_made_with(subject), yaml=yaml, colours=COLOURS,
        yaml_uri="data:text/yaml;base64," + base64.b64encode(yaml.encode()).decode(),
        command=f"limbeck run {shlex.quote(run.experiment)}.yaml", style=style(), sections=_SECTIONS,
    )  # fmt: skip
    return page


@functools.cache
def template(name: str) -> Any:
    """One of this package's templates."""
    environment = Environment(
        loader=FunctionLoader(_read),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "duration": duration,
        "size": size,
        "shown": shown,
        "moment": _moment,
        "measure": measure,
    }
    return environment.get_template(name)


def style() -> Markup:
    """What all pages look like."""
    return Markup(_read("style.css"))


def _read(name: str) -> str:
    return files("orchestrator.report").joinpath(name).read_text(encoding="utf-8")


def _moment(time_ms: int) -> str:
    return datetime.datetime.fromtimestamp(time_ms / 1000, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


def _metrics(subject: Subject) -> dict[str, list[tuple[str, Mapping[str, float]]]]:
    """Last stages first: what a run was made for stands at its end."""
    found: dict[str, list[tuple[str, Mapping[str, float]]]] = defaultdict(list)
    for stage in subject.stages:
        if stage.manifest:
            found[stage.base].append((stage.point, stage.manifest.metrics))
    return dict(reversed(found.items()))


def _stage(stage: StageView) -> dict[str, Any]:
    """A row of what stages took."""
    record, manifest = stage.record, stage.manifest
    provenance = manifest.provenance if manifest else {}
    shards = [float(one) for one in provenance.get("shard_seconds", ())]
    alone = record.computed_shards == stage.planned and record.seconds > 0
    return {
        "name": stage.name, "task": record.task, "state": record.state, "record": record, "planned": stage.planned,
        "done": stage.done, "shard_seconds": sum(shards) if shards else None,
        "at_work": sum(shards) / record.seconds if alone and shards else None,
        "bytes": manifest.bytes if manifest else None,
        "planned_seconds": record.planned_seconds if record.state != "cached" else None,
        "planned_bytes": record.planned_bytes if record.state != "cached" else None,
    }  # fmt: skip


def _made_with(subject: Subject) -> dict[str, Any]:
    """Commit, machine and versions, from what the run made last."""
    made = [stage.manifest for stage in subject.stages if stage.manifest]
    own = [one for one in made if one.provenance.get("run_id") == subject.run.run_id] or made
    if own:
        return max(own, key=lambda one: one.created).provenance
    shards = [shard for stage in subject.stages for shard in stage.shards]
    return shards[-1].provenance if shards else {}
