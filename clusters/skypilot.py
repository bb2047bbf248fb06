"""The clouds, by SkyPilot's managed jobs: nodes are started for the job, replaced when a spot market takes them, and
given back when it ends. The handle of a job is its name there, which is our id."""

import json
import os
import secrets
import shlex
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, field_validator, model_validator

from clusters import clients
from clusters import profile as base
from clusters.attached import ADDRESS
from clusters.clients import Unanswered, ask, tried
from clusters.launcher import ENDED, Check, Order, Phase, Status, Submission
from clusters.parcel import travelling
from clusters.supervisor import supervised
from orchestrator.errors import LimbeckError, last_line

PORT = 6379
"""Of our Ray; SkyPilot's own uses 6380, and 52365 for an agent."""
_AGENT_PORT = 52366
_TOKEN = "LIMBECK_RAY_TOKEN"
_FOLDER = "working_dir"
_JOIN_S = 600
"""For all nodes to have joined, once the first runs."""
_PHASES: dict[str, Phase] = {
    "PENDING": "waiting",
    "SUBMITTED": "waiting",
    "STARTING": "waiting",
    "RECOVERING": "waiting",
    "RUNNING": "running",
    "WINDING_DOWN": "running",
    "CANCELLING": "running",
    "SUCCEEDED": "done",
    "CANCELLED": "stopped",
}
"""Of what SkyPilot says; all that begins with FAILED is failed."""


class Profile(base.Profile):
    """A profile of kind `skypilot`. `mounts`: path to s3://BUCKET/PREFIX and the like, or to a volume of SkyPilot."""

    kind: Literal["skypilot"]
    """skypilot."""
    client: str = "sky"
    """SkyPilot's command, or its path: its dependencies are not ours, so that it has an environment of its own."""
    infra: str | None = None
    """CLOUD, CLOUD/REGION, k8s/CONTEXT or ssh/POOL; unset: the cheapest that is enabled."""
    accelerator: str | None = None
    """SkyPilot's name of the GPU, such as A100; `resources.gpus` of them a node."""
    use_spot: bool = False
    """Whether nodes may be taken away at any time; SkyPilot replaces them, and the run goes on from the store."""
    image: str | None = None
    """docker:IMAGE or an image of the cloud; unset: SkyPilot's."""
    disk_gb: int | None = Field(default=None, ge=1)
    """Disk of each node in GB; unset: SkyPilot's default."""
    setup: str = ""
    """Shell lines that prepare a node, such as the installation of limbeck."""
    wait_s: float = Field(default=900.0, gt=0)
    """Seconds to wait for an answer of SkyPilot; its first job starts a controller, which takes minutes."""

    @field_validator("mounts")
    @classmethod
    def _remote(cls, mounts: dict[str, Any]) -> dict[str, Any]:
        for path, source in mounts.items():
            if source[:1] in ("", ".", "/", "~"):
                raise ValueError(
                    f"{path}: {source!r}: expected s3://BUCKET/PREFIX and the like, or a volume's name"
                )
        return mounts

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if bool(self.resources.gpus) != (self.accelerator is not None):
            raise ValueError(
                "resources.gpus and accelerator belong together: how many on a node, and of which name"
            )
        return self


def check(profile: Profile) -> Iterable[Check]:
    """Whether SkyPilot's server answers, and which clouds it may use."""
    server = tried("SkyPilot", [profile.client, "api", "info"], profile.wait_s, "start it: sky api start")
    yield server
    if server.ok:
        clouds = [profile.infra.partition("/")[0]] if profile.infra else []
        found = f"{clouds[0]} enabled" if clouds else "clouds enabled"
        yield tried("clouds", [profile.client, "check", *clouds], profile.wait_s, "see `sky check -v`", found)


def render(profile: Profile, order: Order) -> Submission:
    """The task. Variables are secrets of SkyPilot's, named on the command line and read from its environment."""
    return Submission({"task.yaml": written(task(profile, order))}, tuple(_launch(profile, order, Path())))


class _Dumper(yaml.SafeDumper):
    """Writes a script as its lines."""


def _lines(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _lines)


def written(values: dict[str, Any]) -> str:
    """A task as YAML that SkyPilot, which uses the same library, reads as the same values."""
    text: str = yaml.dump(values, Dumper=_Dumper, sort_keys=False, width=110, default_flow_style=False)
    return text


def task(profile: Profile, order: Order) -> dict[str, Any]:
    """SkyPilot's task, as plain values."""
    asked = profile.resources
    values: dict[str, Any] = {"name": order.id, "num_nodes": asked.nodes, "resources": _resources(profile)}
    volumes = {path: source for path, source in profile.mounts.items() if "://" not in source}
    buckets = {path: source for path, source in profile.mounts.items() if "://" in source}
    if buckets:
        values["file_mounts"] = {path: {"source": uri, "mode": "MOUNT"} for path, uri in buckets.items()}
    if volumes:
        values["volumes"] = volumes
    if profile.setup:
        values["setup"] = profile.setup
    return values | {"run": script(profile, order)}


def _resources(profile: Profile) -> dict[str, Any]:
    asked = profile.resources
    values: dict[str, Any] = {} if profile.infra is None else {"infra": profile.infra}
    values |= {"cpus": f"{asked.cpus:g}+", "memory": f"{asked.memory_gb:g}+"}
    if profile.accelerator is not None:
        values["accelerators"] = {profile.accelerator: asked.gpus}
    if profile.use_spot:
        values["use_spot"] = True
    if profile.image is not None:
        values["image_id"] = profile.image
    if profile.disk_gb is not None:
        values["disk_size"] = profile.disk_gb
    return values


def script(profile: Profile, order: Order) -> str:
    """What every node runs: a Ray over all of them with a token, and on the first the run, under supervision.

    `ray stop` is never called: it would end the Ray of SkyPilot's own. The nodes go when the job ends.
    """
    python, nodes = shlex.quote(profile.python), profile.resources.nodes
    run = supervised(profile.python, order.argv, profile.retries, profile.time_limit_s)
    return f"""set -eu
umask 077
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$HOME/.{order.id}.token"
printf %s "${_TOKEN}" > "$RAY_AUTH_TOKEN_PATH"
unset {_TOKEN} RAY_ADDRESS
address="$(printf '%s\\n' "$SKYPILOT_NODE_IPS" | head -n 1):{PORT}"
ray() {{ {python} -m ray.scripts.scripts "$@"; }}
if [ "$SKYPILOT_NODE_RANK" != 0 ]; then
  until ray health-check --address "$address" > /dev/null 2>&1; do
    if [ "$SECONDS" -gt {_JOIN_S} ]; then echo "limbeck: no Ray at $address after {_JOIN_S} s" >&2; exit 1; fi
    sleep 2
  done
  ray start --address "$address" --dashboard-agent-listen-port {_AGENT_PORT}
  sleep 5
  exit 0
fi
ray start --head --node-ip-address "${{address%:*}}" --port {PORT} --dashboard-agent-listen-port {_AGENT_PORT} \\
  --include-dashboard false --disable-usage-stats
{python} -m clusters.joined "$address" {nodes} {_JOIN_S}
export {ADDRESS}="$address"
exec {shlex.join(run)}
"""


def submit(profile: Profile, order: Order, submission: Submission, folder: Path) -> str:
    for file, text in submission.files.items():
        (folder / file).write_text(text, encoding="utf-8")
    _copy(order.working_dir, profile, folder / _FOLDER)
    env = {**os.environ, **order.env, _TOKEN: secrets.token_hex(32)}
    ask(_launch(profile, order, folder), profile.wait_s, env=env)
    return order.id


def status(profile: Profile, handle: str) -> Status:
    argv = [profile.client, "jobs", "queue", "--all", "--output", "json"]
    try:
        return read_status(ask(argv, profile.wait_s), handle)
    except LimbeckError as error:
        return Status("unknown", str(error))


def read_status(said: str, handle: str) -> Status:
    """What `sky jobs queue --output json` says of a job; lines before the JSON are messages."""
    lines = said.splitlines()
    start = next((number for number, line in enumerate(lines) if line.startswith("[")), len(lines))
    try:
        rows = json.loads("\n".join(lines[start:]))
    except json.JSONDecodeError:
        return Status(
            "unknown", f"sky jobs queue: expected a JSON list, found {last_line(said) or 'nothing'}"
        )
    found = [row for row in rows if row.get("job_name") == handle]
    if not found:
        return Status("unknown", f"SkyPilot knows no job {handle}")
    word = str(found[0].get("status", ""))
    phase: Phase = "failed" if word.startswith("FAILED") else _PHASES.get(word, "unknown")
    return Status(
        phase, ": ".join(filter(None, [word, found[0].get("failure_reason"), found[0].get("details")]))
    )


def logs(profile: Profile, handle: str, follow: bool) -> Iterator[str]:
    argv = [profile.client, "jobs", "logs", "--name", handle]
    if follow:
        return clients.follow([*argv, "--follow"])
    return iter(ask([*argv, "--no-follow", "--tail", "0"], profile.wait_s).splitlines())


def stop(profile: Profile, handle: str) -> None:
    now = status(profile, handle)
    if now.phase in ENDED:
        return
    if now.phase == "unknown":
        raise Unanswered(f"{handle} was not stopped: {now.message}")
    ask([profile.client, "jobs", "cancel", "--name", handle, "--yes"], profile.wait_s)


def _launch(profile: Profile, order: Order, folder: Path) -> list[str]:
    """Only names of variables stand here; SkyPilot reads their values from its environment."""
    variables = [word for name in sorted({*order.env, _TOKEN}) for word in ("--secret", name)]
    argv = [profile.client, "jobs", "launch", "--name", order.id, "--yes", "--detach-run"]
    return [*argv, "--workdir", str(folder / _FOLDER), *variables, str(folder / "task.yaml")]


def _copy(source: Path, profile: Profile, target: Path) -> None:
    """What travels, as it is now; SkyPilot has no patterns of ours."""
    target.mkdir()
    for name in travelling(source, profile.exclude):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source / name, target / name)
