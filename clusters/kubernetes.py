"""Kubernetes, by KubeRay and kubectl: each run is a RayJob. The handle of a job is the RayJob's name."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from clusters import clients
from clusters.clients import Unanswered, ask, tried
from clusters.kuberay import object_name, ray_cluster, ray_job, secret, written
from clusters.kubernetes_profile import Profile as Profile
from clusters.launcher import ENDED, Check, Order, Phase, Status, Submission
from clusters.parcel import pack
from orchestrator.errors import LimbeckError, UserError
from orchestrator.store.objects import open_objects

_PHASES: dict[str, Phase] = {
    "": "waiting",
    "Initializing": "waiting",
    "Waiting": "waiting",
    "Retrying": "waiting",
    "Running": "running",
    "Suspending": "stopped",
    "Suspended": "stopped",
    "Failed": "failed",
    "ValidationFailed": "failed",
}
"""By jobDeploymentStatus; Complete is told apart by jobStatus."""
_ENDS: dict[str, Phase] = {"SUCCEEDED": "done", "STOPPED": "stopped", "FAILED": "failed"}
_STOP = ("ray", "job", "stop", "--no-wait", "--address=http://127.0.0.1:8265")
"""In the head pod: the driver is sent SIGTERM."""


def check(profile: Profile) -> Iterable[Check]:
    server = tried("Kubernetes", _kubectl(profile, "version"), profile.wait_s, "is the context right?")
    yield server
    if not server.ok:
        return
    field = _kubectl(profile, "explain", "rayjobs.spec.rayClusterSpec.authOptions", "--api-version=ray.io/v1")
    advice = "install KubeRay 1.5.1 or later: its RayJobs have authOptions"
    yield tried("KubeRay", field, profile.wait_s, advice, found="RayJobs with token authentication")
    needed = ["create rayjobs.ray.io", "create pods/exec"] + (["create secrets"] if profile.env else [])
    for right in needed:
        allowed = _kubectl(profile, "auth", "can-i", *right.split())
        advice = f"ask for the right to {right} in namespace {profile.namespace}"
        yield tried(f"right to {right}", allowed, profile.wait_s, advice)
    if profile.cluster is not None:
        yield tried(
            f"RayCluster {profile.cluster}",
            _kubectl(profile, "get", "rayclusters.ray.io", profile.cluster, "--output=name"),
            profile.wait_s,
            "`limbeck launch --dry-run` prints a manifest for it",
        )


def render(profile: Profile, order: Order) -> Submission:
    job = ray_job(profile, order.id, order.argv, secret=bool(order.env))
    files = {"job.yaml": written(job)}
    if profile.cluster is not None:
        files["cluster.yaml"] = written(ray_cluster(profile))
    return Submission(files, tuple(_create(profile, "job.yaml")))


def submit(profile: Profile, order: Order, submission: Submission, folder: Path) -> str:
    name = object_name(order.id)
    for file, text in submission.files.items():
        (folder / file).write_text(text, encoding="utf-8")
    if profile.cluster is not None:
        _demand_cluster(profile, folder)
    if profile.upload is not None:
        packed = pack(order.working_dir, profile.exclude)
        open_objects(profile.upload).put(f"{order.id}.zip", packed)
    made = json.loads(ask(_create(profile, str(folder / "job.yaml"), "--output=json"), profile.wait_s))
    if order.env:
        _give_secret(profile, secret(profile, name, made["metadata"]["uid"], order.env))
    return name


def status(profile: Profile, handle: str) -> Status:
    try:
        return read_status(_rayjob(profile, handle))
    except LimbeckError as error:
        return _gone(profile, handle) if _not_found(error) else Status("unknown", str(error))


def read_status(job: Mapping[str, Any]) -> Status:
    """What a RayJob, as Kubernetes returns it, says of itself."""
    said = job.get("status", {})
    deployment, ray = said.get("jobDeploymentStatus", ""), said.get("jobStatus", "")
    phase = _ENDS.get(ray, "unknown") if deployment == "Complete" else _PHASES.get(deployment, "unknown")
    queued = "kueue.x-k8s.io/queue-name" in job["metadata"].get("labels", {})
    if phase == "stopped" and deployment != "Complete" and queued:
        phase = "waiting"  # Kueue holds jobs back, and takes them off again, by suspending them
    if deployment == "Failed" and ray == "STOPPED":
        phase = "stopped"
    words = [deployment or "New", ray, said.get("reason", ""), said.get("message", "")]
    if phase == "waiting":
        words.append(said.get("rayClusterStatus", {}).get("reason", ""))
    return Status(phase, ": ".join(dict.fromkeys(word for word in words if word)))


def logs(profile: Profile, handle: str, follow: bool) -> Iterator[str]:
    now = status(profile, handle)
    if now.phase in ("waiting", "unknown"):
        raise LimbeckError(f"{handle} has no output yet: {now.message}")
    argv = _kubectl(profile, "logs", f"job/{handle}", "--tail=-1")
    return clients.follow([*argv, "--follow"]) if follow else iter(ask(argv, profile.wait_s).splitlines())


def stop(profile: Profile, handle: str) -> None:
    try:
        job = _rayjob(profile, handle)
    except Unanswered as error:
        if _not_found(error):
            return
        raise
    said = job.get("status", {})
    if read_status(job).phase in ENDED:
        return
    if said.get("jobStatus") in ("PENDING", "RUNNING"):
        ask([*_at_head(profile, said), *_STOP, said["jobId"]], profile.wait_s)
    else:  # no driver that could be asked: KubeRay removes all that belongs to the job
        ask(_kubectl(profile, "delete", "rayjobs.ray.io", handle, "--wait=false"), profile.wait_s)


def _kubectl(profile: Profile, *words: str) -> list[str]:
    configuration = [] if profile.kubeconfig is None else [f"--kubeconfig={profile.kubeconfig}"]
    context = [] if profile.context is None else [f"--context={profile.context}"]
    return ["kubectl", *configuration, *context, f"--namespace={profile.namespace}", *words]


def _create(profile: Profile, file: str, *options: str) -> list[str]:
    """`create`, not `apply`: a job is new, and one that is there must not be changed under way."""
    return _kubectl(profile, "create", f"--filename={file}", *options)


def _rayjob(profile: Profile, handle: str) -> dict[str, Any]:
    argv = _kubectl(profile, "get", "rayjobs.ray.io", handle, "--output=json")
    found: dict[str, Any] = json.loads(ask(argv, profile.wait_s))
    return found


def _not_found(error: LimbeckError) -> bool:
    return "Error from server (NotFound)" in str(error)


def _gone(profile: Profile, handle: str) -> Status:
    return Status("stopped", f"namespace {profile.namespace} has no RayJob {handle} any more: it was deleted")


def _demand_cluster(profile: Profile, folder: Path) -> None:
    assert profile.cluster is not None
    try:
        ask(_kubectl(profile, "get", "rayclusters.ray.io", profile.cluster, "--output=name"), profile.wait_s)
    except Unanswered as error:
        if not _not_found(error):
            raise
        start = " ".join(_kubectl(profile, "apply", f"--filename={folder / 'cluster.yaml'}"))
        raise UserError(
            f"namespace {profile.namespace} has no RayCluster {profile.cluster}; start it: {start}"
        ) from error


def _give_secret(profile: Profile, manifest: Mapping[str, Any]) -> None:
    """Through standard input: the values are in no file of ours. Without them no pod of the job starts."""
    try:
        ask(_create(profile, "-"), profile.wait_s, given=json.dumps(manifest))
    except LimbeckError:
        ask(
            _kubectl(profile, "delete", "rayjobs.ray.io", manifest["metadata"]["name"], "--wait=false"),
            profile.wait_s,
        )
        raise


def _at_head(profile: Profile, said: Mapping[str, Any]) -> list[str]:
    labels = f"ray.io/cluster={said['rayClusterName']},ray.io/node-type=head"
    found = ask(
        _kubectl(profile, "get", "pods", f"--selector={labels}", "--output=name"), profile.wait_s
    ).split()
    if not found:
        raise Unanswered(f"RayCluster {said['rayClusterName']} has no head pod now: try again")
    return _kubectl(profile, "exec", found[0], "--")
