"""`limbeck launch`: the plan first, then the job."""

import os
import re
import secrets
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clusters import jobs, local
from clusters.launcher import Order, Submission
from clusters.lookup import Cluster, find_cluster
from orchestrator.console import Console
from orchestrator.errors import Infeasible, UserError
from orchestrator.feasibility import Node, Offer, problems
from orchestrator.places import DEFAULT_STORE, is_remote
from orchestrator.plan import Plan
from orchestrator.provenance import now_ms
from orchestrator.store import Store
from orchestrator.tracking import uri_of
from orchestrator.verbs.running import plan_answer, planned, show_plan, to_read

_ID_LENGTH = 50


@dataclass(frozen=True)
class _Launch:
    """What is to be submitted, and what it will do."""

    cluster: Cluster
    order: Order
    submission: Submission
    plan: Plan

    @property
    def cost(self) -> float | None:
        """Price of all nodes for the estimated time; None where one of these is not known."""
        nodes = self.cluster.profile.resources
        if nodes.price_per_hour is None or self.plan.seconds is None:
            return None
        return float(nodes.price_per_hour * nodes.nodes * self.plan.seconds / 3600)


def launch(
    experiment: Path,
    overrides: Sequence[str],
    cluster_name: str,
    store_uri: str | None,
    tracking: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Plans, refuses what cannot be, submits, and says what to do next."""
    console = Console(as_json=as_json)
    made = _made(experiment, overrides, find_cluster(cluster_name), store_uri, tracking)
    found = problems([stage for stage in made.plan.stages if stage.active], made.plan.offer)
    if not as_json:
        _show(made, console)
    if found:
        raise Infeasible("\n".join(found))
    handle = None if dry_run else _submit(made)
    if as_json:
        console.answer(_answer(made, handle))
    elif dry_run:
        _show_submission(made.submission, console)
    else:
        _show_next(made.order.id, console)


def _made(
    experiment: Path, overrides: Sequence[str], cluster: Cluster, store_uri: str | None, tracking: str | None
) -> _Launch:
    profile = cluster.profile
    folder = Path(profile.working_dir).expanduser().absolute()
    place = _store_uri(cluster, store_uri)
    argv = ["run", _inside(folder, experiment), *overrides, "--store", place]
    tracking = profile.tracking or tracking
    if tracking or is_remote(place):
        argv += ["--tracking", uri_of(place, tracking)]
    store = to_read(place)
    plan = planned(experiment, overrides, store, _offer(cluster, store))
    travels = _away_from_store(cluster, folder, place)
    env = {name: os.environ[name] for name in profile.env if name in os.environ}
    order = Order(_new_id(plan.experiment.name), tuple(argv), folder, env)
    return _Launch(travels, order, travels.kind.render(travels.profile, order), plan)


def _submit(made: _Launch) -> str:
    cluster, order = made.cluster, made.order
    if missing := [name for name in cluster.profile.env if name not in order.env]:
        raise UserError(f"{cluster.source}: env: {', '.join(missing)} not set here; set it, or take it out")
    job = jobs.Job(
        id=order.id, cluster=cluster.name, profile=dict(cluster.document), argv=order.argv, submitted=now_ms()
    )
    jobs.keep(job)
    handle = cluster.kind.submit(cluster.profile, order, made.submission, jobs.folder(order.id))
    jobs.keep(job.model_copy(update={"handle": handle}))
    return handle


def _store_uri(cluster: Cluster, given: str | None) -> str:
    """The store as the job names it: absolute, as its working directory is elsewhere."""
    uri = cluster.profile.store or given
    if uri is None and not _is_here(cluster):
        raise UserError(
            f"{cluster.source}: store: missing; give it there, or by --store: a folder that all nodes share, or "
            "s3://BUCKET/PREFIX"
        )
    uri = uri or DEFAULT_STORE
    return uri if "://" in uri else str(Path(uri).expanduser().absolute())


def _inside(folder: Path, experiment: Path) -> str:
    """The experiment's path in the working directory."""
    if not folder.is_dir():
        raise UserError(f"working_dir {folder}: there is no such folder")
    path = experiment.absolute()
    if not path.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{experiment}: lies outside the working directory {folder}, which alone travels")
    return path.resolve().relative_to(folder.resolve()).as_posix()


def _away_from_store(cluster: Cluster, folder: Path, store_uri: str) -> Cluster:
    """The same cluster; a store inside the working directory stays behind."""
    store = Path(store_uri)
    if _is_here(cluster) or is_remote(store_uri) or not store.is_relative_to(folder):
        return cluster
    exclude = (*cluster.profile.exclude, f"/{store.relative_to(folder).as_posix()}")
    return replace(cluster, profile=cluster.profile.model_copy(update={"exclude": exclude}))


def _is_here(cluster: Cluster) -> bool:
    return cluster.profile.kind == "local"


def _offer(cluster: Cluster, store: Store) -> Offer:
    if _is_here(cluster):
        return local.offer(store.bytes.free_bytes())
    asked = cluster.profile.resources
    node = Node(asked.cpus, asked.gpus, asked.memory_gb)
    return Offer.of(f"{cluster.name} ({asked.nodes} nodes)", [node] * asked.nodes)


def _new_id(experiment: str) -> str:
    """Ours, and safe everywhere: see `Order.id`."""
    tail = time.strftime("-%m%d-%H%M%S-") + secrets.token_hex(2)
    name = re.sub(r"[^a-z0-9]+", "-", experiment.lower()).strip("-") or "run"
    return name[: _ID_LENGTH - len(tail)].rstrip("-") + tail


def _show(made: _Launch, console: Console) -> None:
    show_plan(made.plan, console)
    nodes, cost = made.cluster.profile.resources, made.cost
    if cost is not None:
        console.print(f"estimated cost: {cost:.2f} ({nodes.nodes} nodes at {nodes.price_per_hour:g} an hour)")


def _show_submission(submission: Submission, console: Console) -> None:
    for name, text in submission.files.items():
        console.print(f"\n# {name}\n{text.rstrip()}")
    console.print(f"\n{shlex.join(submission.command)}")


def _show_next(job: str, console: Console) -> None:
    console.print(f"job       {job}")
    for verb in ("status {}", "logs {} -f", "stop {}"):
        console.print(f"next      limbeck {verb.format(job)}")


def _answer(made: _Launch, handle: str | None) -> dict[str, Any]:
    """The object of `launch --json`; `handle` is none after a dry run."""
    cluster, submission = made.cluster, made.submission
    return {
        "job": made.order.id,
        "cluster": cluster.name,
        "kind": cluster.profile.kind,
        "handle": handle,
        "files": dict(submission.files),
        "command": list(submission.command),
        "cost": made.cost,
        "plan": plan_answer(made.plan, []),
    }
