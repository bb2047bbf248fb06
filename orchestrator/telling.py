"""What the tracker is told of a run: its stages, what their shards logged, what came of them."""

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict
from typing import Any

from orchestrator.console import Console, shown
from orchestrator.executors.hands import News
from orchestrator.experiment import Experiment
from orchestrator.plan import StagePlan
from orchestrator.provenance import commit, data_of
from orchestrator.spool import Spool
from orchestrator.store import Manifest, Store
from orchestrator.store.abreast import abreast

_SAMPLED_SHARDS = 200
"""Of a stage with more shards, the tracker is told the curves and pictures of so many, evenly spread."""
OnMetrics = Callable[[str, str, int, Mapping[str, float]], None]
"""Is told what a shard logs: stage, shard, step, values."""


class Telling:
    """Puts it into the spool of a run; `console` shows the last values, `on_metrics` hears all."""

    def __init__(
        self, store: Store, spool: Spool, console: Console, on_metrics: OnMetrics | None = None
    ) -> None:
        self._store, self._spool, self._console, self._on_metrics = store, spool, console, on_metrics

    def run_started(
        self, run_id: str, experiment: Experiment, stages: Iterable[StagePlan], search: str | None
    ) -> None:
        """`search`: the id of the search whose trial the run is."""
        self._spool.run_started(
            run_id=run_id, experiment=experiment.name,
            params=_flat({"seed": experiment.seed, "stages": experiment.document["stages"]}),
            tags={
                "commit": commit() or "",
                "overrides": " ".join(experiment.overrides),
                "dataset": _names(one for stage in stages for one in data_of(stage.facts)),
            },
            search=search,
        )  # fmt: skip

    def run_ended(self, state: str) -> None:
        self._spool.run_ended(state)

    def stage_started(self, plan: StagePlan, todo: Collection[int]) -> None:
        """And what its finished shards, those not in `todo`, logged; the spool drops what it was told before."""
        self._spool.stage_started(
            stage=plan.name, task=plan.stage.options.task, shards=len(plan.shards),
            params=_flat(plan.stage.config.model_dump(mode="json")),
            tags={
                "cached": str(plan.cached).lower(), "inputs": " ".join(plan.inputs.values()),
                "commit": commit() or "", "dataset": _names(data_of(plan.facts)),
            },
            datasets=_datasets(plan),
        )  # fmt: skip
        keys = [plan.shard_keys[index] for index in _sampled(plan) if index not in todo]
        hear = self.hears(plan)
        for label, news in abreast(self._store.bytes.at_once, self._logged, keys):
            hear(label, news)

    def stage_ended(self, plan: StagePlan, state: str, failed: int, manifest: Manifest | None) -> None:
        """`failed`: shards; `manifest`: what was made, where it was."""
        if manifest:
            self.hears(plan)("", {"metrics": [], "previews": manifest.previews})
        self._spool.stage_ended(
            stage=plan.name, state=state, metrics=dict(manifest.metrics) if manifest else {},
            artifact=manifest.id if manifest else None, digest=manifest.digest if manifest else None,
            manifest=manifest.to_json() if manifest else None, tables=self._summary(plan) if manifest else None,
            failed_shards=failed, model=self._model(plan, manifest) if manifest else None,
        )  # fmt: skip

    def hears(self, plan: StagePlan) -> Callable[[str, News], None]:
        """What is to hear a shard's news, under its label; under none those of the closing step."""
        told = {plan.shards[index].label for index in _sampled(plan)} | {""}

        def hear(shard: str, news: News) -> None:
            for entry in news["metrics"]:
                if shard in told:
                    self._spool.metrics(
                        plan.name, shard, entry["step"], entry["values"], time_ms=entry["time_ms"]
                    )
                self._console.metrics(plan.name, entry["values"])
                if self._on_metrics:
                    self._on_metrics(plan.name, shard, entry["step"], entry["values"])
            for picture in news["previews"] if shard in told else ():
                self._spool.preview(
                    plan.name,
                    shard,
                    picture["name"],
                    picture["step"],
                    picture["blob"],
                    time_ms=picture["time_ms"],
                )

        return hear

    def _logged(self, key: str) -> tuple[str, News]:
        """Label of a finished shard, and what it logged."""
        record = self._store.shard(key).record
        metrics = json.loads(self._store.read_blob(record.history.digest)) if record.history else []
        return record.label, {"metrics": metrics, "previews": record.previews}

    def _model(self, plan: StagePlan, manifest: Manifest) -> dict[str, Any] | None:
        """What the artifact is when it is asked as a model, and where it lies."""
        served = plan.task.serves(manifest.facts)
        where = {"task": plan.stage.options.task, "artifact": manifest.id, "digest": manifest.digest}
        reference = {"store": self._store.uri, **where}
        return None if served is None else {**asdict(served), "reference": reference}

    def _summary(self, plan: StagePlan) -> str | None:
        """The stage's summary table as text."""
        artifact = self._store.artifact(plan.key)
        if "summary.parquet" not in artifact.names:
            return None
        table = artifact.table("summary")
        rows = [table.column_names, *(list(row.values()) for row in table.to_pylist())]
        return "".join("\t".join(shown(value) for value in row) + "\n" for row in rows)


def _sampled(plan: StagePlan) -> range:
    """The shards whose curves and pictures the tracker is told."""
    return range(0, len(plan.shards), -(-len(plan.shards) // _SAMPLED_SHARDS))


def _datasets(plan: StagePlan) -> list[dict[str, str]]:
    """As the tracker shows them; data without a known source is left out."""
    return [
        {"name": str(one["name"]), "digest": str(one["digest"]), "source": json.dumps(one["source"])}
        for one in data_of(plan.facts)
        if one["source"]
    ]


def _names(data: Iterable[Mapping[str, Any]]) -> str:
    """Of datasets, for a person to search by."""
    return " ".join(dict.fromkeys(str(one["name"]) for one in data))


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
