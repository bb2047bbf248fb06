"""A Ray cluster that runs already, by its Jobs API. The handle of a job is its submission id there, which is our id."""

import contextlib
import json
import os
import re
import shlex
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import yaml
from pydantic import field_validator

from clusters import profile as base
from clusters.attached import ADDRESS
from clusters.clients import Unanswered
from clusters.launcher import ENDED, Check, Order, Phase, Status, Submission
from clusters.nodes import Versions, complaints, versions
from clusters.parcel import pack
from clusters.supervisor import GRACE_S, supervised
from orchestrator.errors import Infeasible, LimbeckError, UserError, last_line

if TYPE_CHECKING:
    from clusters.jobsapi import Client

_PHASES: dict[str, Phase] = {
    "PENDING": "waiting",
    "RUNNING": "running",
    "STOPPED": "stopped",
    "SUCCEEDED": "done",
    "FAILED": "failed",
}
_SETTINGS = {"RAY_JOB_STOP_WAIT_TIME_S": f"{GRACE_S + 10:.0f}"}
"""Ray's own 3 s are too few for workers to save their progress. Nothing else of ours may stand here: Ray refuses a
run that sets a variable which its job has set too, as an attached run does with those of the allocator."""
_URL = re.compile(r"https?://[^\s/@?#]+(/[^\s?#]*)?")
_PACKED, _RUNTIME = "working_dir.zip", "runtime_env.yaml"
_LOOK_S = 0.5


class Profile(base.Profile):
    """A profile of kind `existing`. `resources` says what its nodes have; the run itself counts them again."""

    cannot: ClassVar[Mapping[str, str]] = {"mounts": "the nodes are there already, with what they have"}

    kind: Literal["existing"]
    """existing."""
    address: str
    """http://HOST:8265, or https: where the head's dashboard answers, which has the Jobs API."""
    token_file: str | None = None
    """A file for its owner alone (0600) that holds the cluster's token; unset: RAY_AUTH_TOKEN here, or the file
    that RAY_AUTH_TOKEN_PATH names here; where neither is set none is sent."""

    @field_validator("address")
    @classmethod
    def _web(cls, address: str) -> str:
        if not _URL.fullmatch(address):
            raise ValueError("expected http://HOST:PORT or https://HOST of the dashboard, without a user")
        return address.rstrip("/")


def check(profile: Profile) -> Iterable[Check]:
    """Whether the Jobs API answers with our Ray's version, and by a job of seconds whether its software is ours."""
    try:
        client = _client(profile)
        yield Check("Jobs API", True, f"Ray {client.ray_version}")
        found = _probed(client, profile, f"limbeck-check-{os.getpid()}-{time.time_ns():x}", {})
    except LimbeckError as error:
        yield Check("software" if isinstance(error, Infeasible) else "Jobs API", False, str(error))
        return
    yield Check("software", True, f"Python {found['python']}, limbeck and packages as here")


def render(profile: Profile, order: Order) -> Submission:
    """What travels, with the names of its variables, and the command of Ray's that would submit the same."""
    shown = {"env_vars": _SETTINGS | dict.fromkeys(sorted(order.env), "of the environment here")}
    argv = ("ray", "job", "submit", "--address", profile.address, "--submission-id", order.id, "--no-wait")
    files = ("--working-dir", _PACKED, "--runtime-env", _RUNTIME)
    return Submission({_RUNTIME: yaml.safe_dump(shown)}, (*argv, *files, "--", *_entry(profile, order)))


def submit(profile: Profile, order: Order, submission: Submission, folder: Path) -> str:
    """First a job of seconds tells the software there; where it is not ours Infeasible names what differs."""
    for file, text in submission.files.items():
        (folder / file).write_text(text, encoding="utf-8")
    packed = folder / _PACKED
    packed.write_bytes(pack(order.working_dir, profile.exclude, root=""))
    runtime_env = {"working_dir": str(packed), "env_vars": _SETTINGS | dict(order.env)}
    try:
        client = _client(profile)
        _probed(client, profile, f"{order.id}-software", runtime_env)
        client.submit(order.id, f"exec {shlex.join(_entry(profile, order))}", runtime_env)
    finally:
        packed.unlink()
    return order.id


def status(profile: Profile, handle: str) -> Status:
    try:
        return read_status(_client(profile).job(handle))
    except LimbeckError as error:
        return Status("unknown", str(error))


def read_status(job: Mapping[str, Any] | None) -> Status:
    """What the Jobs API says of a job; None: that there is none."""
    if job is None:
        why = "the cluster knows no such job any more, as after a new start of its head"
        return Status("failed", f"{why}; launch it again, and it goes on from what is stored")
    word, code = str(job.get("status")), job.get("driver_exit_code")
    phase = _PHASES.get(word, "unknown")
    if phase != "failed":
        return Status(phase, word)
    return Status(phase, f"exit code {code}" if code is not None else last_line(job.get("message") or word))


def logs(profile: Profile, handle: str, follow: bool) -> Iterator[str]:
    client = _client(profile)
    return _followed(client, handle) if follow else iter(client.output(handle).splitlines())


def stop(profile: Profile, handle: str) -> None:
    client = _client(profile)
    if read_status(client.job(handle)).phase not in ENDED:
        client.stop(handle)


def _entry(profile: Profile, order: Order) -> tuple[str, ...]:
    """The run under care, on the head. Ray tells a stop to every process of the job by itself."""
    care = supervised(profile.python, order.argv, profile.retries, profile.time_limit_s, "--stop-is-heard")
    return ("env", f"{ADDRESS}=auto", *care)


def _client(profile: Profile) -> "Client":
    from clusters.jobsapi import Client  # Ray takes its time to be imported

    return Client(profile.address, token(profile), profile.wait_s)


def token(profile: Profile) -> str | None:
    """The cluster's token. UserError where its file cannot be read, or by others than its owner too."""
    if profile.token_file is None and os.environ.get("RAY_AUTH_TOKEN"):
        return os.environ["RAY_AUTH_TOKEN"]
    named = profile.token_file or os.environ.get("RAY_AUTH_TOKEN_PATH")
    if not named:
        return None
    path = Path(named).expanduser()
    try:
        mode, found = stat.S_IMODE(path.stat().st_mode), path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"token_file {path}: cannot be read: {error}; put the cluster's token there"
        ) from error
    if mode & 0o077:
        raise UserError(
            f"token_file {path}: others may read it (mode {mode:o}); chmod 600 {shlex.quote(named)}"
        )
    return found


def _probed(client: "Client", profile: Profile, name: str, runtime_env: Mapping[str, Any]) -> Versions:
    """The versions there, which are ours. Infeasible names each that is not; nothing of the job is left."""
    client.submit(name, shlex.join([profile.python, "-m", "clusters.nodes"]), runtime_env)
    phase, said = _ended(client, name, profile.wait_s), client.output(name)
    client.forget(name)
    if phase != "done":
        raise Infeasible(
            f"{profile.python} on the head of {profile.address}: {last_line(said)}; name a Python that has limbeck "
            "by `python`"
        )
    there: Versions = json.loads(next(line for line in said.splitlines() if line.startswith('{"python"')))
    answer = {"versions": there, "store": None}
    if found := complaints(f"{profile.address} (head)", answer, versions(()), "this machine"):
        raise Infeasible("\n".join(found))
    return there


def _ended(client: "Client", name: str, wait_s: float) -> Phase:
    deadline = time.monotonic() + wait_s
    while (now := read_status(client.job(name))).phase not in ENDED:
        if time.monotonic() > deadline:
            client.stop(name)
            raise Unanswered(
                f"job {name}, which tells the versions there, is {now.phase} after {wait_s:g} s (the profile's "
                "wait_s); see whether the cluster's head is well"
            )
        time.sleep(_LOOK_S)
    return now.phase


def _followed(client: "Client", handle: str) -> Iterator[str]:
    """Lines as they come. Where none come for a while the cluster is asked whether the job still runs."""
    begun = ""
    with contextlib.closing(client.tail(handle)) as pieces:
        for piece in pieces:
            if piece is None and read_status(client.job(handle)).phase in ENDED:
                break
            *lines, begun = (begun + (piece or "")).split("\n")
            yield from lines
    if begun:
        yield begun
