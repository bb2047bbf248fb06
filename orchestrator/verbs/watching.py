"""`limbeck jobs`, `status`, `logs`, `stop` and `clusters`: what has been launched, and where it can be."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from clusters import jobs as book
from clusters.jobs import Job
from clusters.launcher import ENDED, Check, Status, described
from clusters.lookup import Cluster, cluster_of, find_cluster, names
from orchestrator.console import Console
from orchestrator.errors import LimbeckError, UserError

_ASKED_AT_ONCE = 8


def jobs(as_json: bool) -> None:
    """Every job of this user, newest first, and how it stands."""
    console, known = Console(as_json=as_json), book.jobs()
    with ThreadPoolExecutor(_ASKED_AT_ONCE) as pool:
        rows = [_row(job, status) for job, status in zip(known, pool.map(_status, known), strict=True)]
    if as_json:
        return console.answer(rows)
    if not rows:
        return console.print("no jobs yet; limbeck launch EXP --cluster NAME")
    cells = [
        [row["job"], row["cluster"], _when(row["submitted"]), row["phase"], row["message"]] for row in rows
    ]
    return console.table("", ["job", "cluster", "submitted", "phase", "message"], cells)


def status(name: str, as_json: bool) -> None:
    """How a job stands."""
    console, job = Console(as_json=as_json), book.find_job(name)
    row = _row(job, _status(job))
    if as_json:
        return console.answer(row)
    console.print(f"job       {job.id}: {row['phase']}" + (f" ({row['message']})" if row["message"] else ""))
    console.print(f"cluster   {job.cluster}, there {job.handle}, submitted {_when(job.submitted)}")
    console.print(f"runs      limbeck {' '.join(job.argv)}")
    return None


def logs(name: str, follow: bool) -> None:
    """The job's output; with `follow` until it ends. Ctrl-C ends the listening, not the job."""
    console, job = Console(), book.find_job(name)
    cluster, handle = _submitted(job)
    try:
        for line in cluster.kind.logs(cluster.profile, handle, follow):
            console.print(line)
    except KeyboardInterrupt:
        console.say(f"job {job.id} goes on; limbeck stop {job.id} ends it")
    except OSError as error:
        raise LimbeckError(f"job {job.id}: its output cannot be read: {error}") from error


def stop(name: str, as_json: bool) -> None:
    """Asks a job to end in order."""
    console, job = Console(as_json=as_json), book.find_job(name)
    cluster, handle = _submitted(job)
    cluster.kind.stop(cluster.profile, handle)
    now = _status(job)
    if as_json:
        return console.answer(_row(job, now))
    console.print(f"job {job.id}: {now.phase}" + ("" if now.phase in ENDED else f"; limbeck status {job.id}"))
    return console.print("the same launch goes on from what is stored")


def clusters(name: str | None, check: bool, as_json: bool) -> None:
    """The profiles that there are; with `check` whether each can be reached. Exit code 1 where one cannot."""
    console = Console(as_json=as_json)
    rows = [_profile(one, check) for one in ([name] if name else sorted(names()))]
    if as_json:
        console.answer(rows)
    else:
        _show_profiles(rows, check, console)
    wrong = [row["cluster"] for row in rows if not row["ok"]]
    if wrong:
        raise LimbeckError(f"not well: {', '.join(wrong)}", answered=as_json)


def _submitted(job: Job) -> tuple[Cluster, str]:
    """The cluster, and its name of the job."""
    cluster = cluster_of(job.cluster, job.profile)
    if job.handle is None:
        raise UserError(
            f"job {job.id}: its launch was cut short before {job.cluster} had answered; look there for {job.id}"
        )
    return cluster, job.handle


def _status(job: Job) -> Status:
    """As the cluster tells, or told when it had ended. A question that fails tells nothing of the job."""
    if job.ended:
        return Status(job.ended, job.message)
    try:
        cluster, handle = _submitted(job)
        found = cluster.kind.status(cluster.profile, handle)
    except LimbeckError as error:
        return Status("unknown", str(error).splitlines()[0])
    if found.phase in ENDED:
        book.keep(job.model_copy(update={"ended": found.phase, "message": found.message}))
    return found


def _row(job: Job, found: Status) -> dict[str, Any]:
    return {
        "job": job.id,
        "cluster": job.cluster,
        "kind": job.profile["kind"],
        "handle": job.handle,
        "phase": found.phase,
        "message": found.message,
        "submitted": job.submitted,
        "argv": list(job.argv),
    }


def _profile(name: str, check: bool) -> dict[str, Any]:
    """One profile as plain JSON."""
    try:
        cluster = find_cluster(name)
    except LimbeckError as error:
        return {"cluster": name, "ok": False, "kind": None, "has": str(error), "source": None, "checks": []}
    checks = _checks(cluster) if check else []
    return {
        "cluster": name,
        "ok": all(one.ok for one in checks),
        "kind": cluster.profile.kind,
        "has": "what it has" if "resources" in cluster.profile.cannot else described(cluster.profile),
        "source": cluster.source,
        "checks": [{"what": one.what, "ok": one.ok, "found": one.found} for one in checks],
    }


def _checks(cluster: Cluster) -> Sequence[Check]:
    try:
        return list(cluster.kind.check(cluster.profile))
    except LimbeckError as error:
        return [Check("reached", False, str(error))]


def _show_profiles(rows: Sequence[dict[str, Any]], check: bool, console: Console) -> None:
    cells = [[row["cluster"], row["kind"], row["has"], row["source"]] for row in rows]
    console.table("", ["cluster", "kind", "has", "profile"], cells)
    if check:
        found = [
            [row["cluster"], one["what"], one["ok"], one["found"]] for row in rows for one in row["checks"]
        ]
        console.print("")
        console.table("", ["cluster", "check", "ok", "found"], found)


def _when(submitted_ms: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(submitted_ms / 1000))
