"""Slurm: each run is one batch job. The handle of a job is its name there, which is our id.

Slurm forgets jobs after some minutes where it keeps no accounts: then the job's own folder tells how it ended.
"""

import os
import secrets
import shlex
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from clusters import tail
from clusters.allocation import END_SIGNAL, STOP, TOKEN, read_word
from clusters.clients import Unanswered, ask, tried
from clusters.launcher import ENDED, Check, Order, Status, Submission
from clusters.private import write_private
from clusters.slurm_profile import Profile as Profile
from clusters.slurm_script import OUTPUT, VARIABLES, script
from clusters.supervisor import OUT_OF_TIME, STOPPED
from orchestrator.errors import LimbeckError, last_line

_SCRIPT, _NUMBER = "job.sh", "slurm_job"
_ASK_S = 3.0
"""Between questions to Slurm while output is followed."""
_WAITING = (
    "PENDING",
    "CONFIGURING",
    "REQUEUED",
    "REQUEUE_FED",
    "REQUEUE_HOLD",
    "RESV_DEL_HOLD",
    "SPECIAL_EXIT",
)
_RUNNING = ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING")
_BY_SLURM = ("BOOT_FAIL", "DEADLINE", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT")
"""Ends of Slurm's making."""
_AGAIN = "launch it again, and it goes on from what is stored"


def check(profile: Profile) -> Iterable[Check]:
    """Whether Slurm's controller answers, and has the partition."""
    controller = tried("Slurm", ["scontrol", "ping"], profile.wait_s, "is this a login node of the cluster?")
    yield controller
    if controller.ok:
        wanted = [] if profile.partition is None else [f"--partition={profile.partition}"]
        nodes = ask(["sinfo", "--noheader", "--format=%P %a, %D nodes, at most %l", *wanted], profile.wait_s)
        found = "; ".join(line.strip() for line in nodes.splitlines())
        missing = "there is none of that name; see `sinfo --summarize`"
        yield Check(f"partition {profile.partition or '(any)'}", bool(found), found or missing)


def render(profile: Profile, order: Order) -> Submission:
    folder = Path(profile.folder) / order.id
    return Submission({_SCRIPT: script(profile, order)}, ("sbatch", "--parsable", str(folder / _SCRIPT)))


def submit(profile: Profile, order: Order, submission: Submission, folder: Path) -> str:
    place = _place(profile, order.id)
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(place / _SCRIPT, submission.files[_SCRIPT])
    write_private(place / TOKEN, secrets.token_hex(32))
    if order.env:
        write_private(
            place / VARIABLES, "".join(f"export {k}={shlex.quote(v)}\n" for k, v in order.env.items())
        )
    # sbatch would rather do what such variables say than what the script says.
    env = {name: value for name, value in os.environ.items() if not name.startswith("SBATCH_")}
    said = ask(submission.command, profile.wait_s, env=env)
    write_private(place / _NUMBER, last_line(said).partition(";")[0])
    return order.id


def status(profile: Profile, handle: str) -> Status:
    place = _place(profile, handle)
    try:
        number = (place / _NUMBER).read_text()
        word, said = _slurms_word(profile, number, handle)
        spoken = read_word(place)
    except (OSError, LimbeckError) as error:
        return Status("unknown", str(error))
    found = read_status(word, None if spoken is None else spoken.code, (place / STOP).exists())
    return Status(found.phase, ": ".join(filter(None, [f"job {number}", word, said, found.message])))


def read_status(word: str, code: int | None, stop: bool) -> Status:
    """From Slurm's word for the job's state (empty: forgotten), the run's exit code, and whether a stop was asked."""
    if word in _WAITING:
        return Status("waiting")
    if word in _RUNNING:
        return Status("running")
    if code == 0 or word == "COMPLETED":
        return Status("done")
    if code == OUT_OF_TIME or word == "TIMEOUT":
        return Status("failed", f"its time limit was over; {_AGAIN}")
    if word in _BY_SLURM:
        return Status("failed", _AGAIN)
    if code == STOPPED or word == "CANCELLED" or (stop and not word):
        return Status("stopped")
    if code is not None:
        return Status("failed", f"exit code {code}" if code > 0 else f"killed by signal {-code}")
    if word == "FAILED":
        return Status("failed", "before the run began; see its output")
    if word:
        return Status("unknown", "a state that Limbeck does not know")
    return Status(
        "failed", f"Slurm has forgotten it, and it left no word: it was cancelled or killed; {_AGAIN}"
    )


def logs(profile: Profile, handle: str, follow: bool) -> Iterator[str]:
    output = _place(profile, handle) / OUTPUT
    over = _Over(profile, handle)
    while follow and not output.exists() and not over():
        time.sleep(tail.LOOK_S)
    if not output.exists():
        raise LimbeckError(f"{handle} has no output yet: {status(profile, handle).message}")
    return tail.lines(output, over if follow else lambda: True)


def stop(profile: Profile, handle: str) -> None:
    """A run is asked to end in order, as at the end of its time; a job that has none yet is cancelled."""
    now, place = status(profile, handle), _place(profile, handle)
    if now.phase in ENDED:
        return
    if now.phase == "unknown":
        raise Unanswered(f"{handle} was not stopped: {now.message}")
    (place / STOP).touch(mode=0o600)
    number = (place / _NUMBER).read_text()
    how = [f"--signal={END_SIGNAL.name.removeprefix('SIG')}"] if now.phase == "running" else []
    try:
        ask(["scancel", *how, number], profile.wait_s)
    except Unanswered as error:
        if "already completing" not in str(error):  # it ends by itself
            raise


class _Over:
    """Whether a job has ended. Slurm is asked seldom."""

    def __init__(self, profile: Profile, handle: str) -> None:
        self._profile, self._handle, self._asked, self._ended = profile, handle, 0.0, False

    def __call__(self) -> bool:
        if time.monotonic() - self._asked > _ASK_S:
            self._ended = status(self._profile, self._handle).phase in ENDED
            self._asked = time.monotonic()
        return self._ended


def _slurms_word(profile: Profile, number: str, name: str) -> tuple[str, str]:
    """The state, and what is said of it; empty where Slurm has no such job, or one of another name, any more."""
    try:
        asked = ["squeue", "--noheader", "--states=all", f"--jobs={number}", "--format=%j|%T|%r|%N"]
        word, reason, nodes = _row(ask(asked, profile.wait_s), name, 4)
        if word:
            return word, nodes if word in _RUNNING else reason.replace("None", "")
    except Unanswered as error:
        if "Invalid job id" not in str(error):
            raise
    asked = [
        "sacct",
        "--noheader",
        "--parsable2",
        "--allocations",
        f"--jobs={number}",
        "--format=JobName,State",
    ]
    try:
        [word] = _row(ask(asked, profile.wait_s), name, 2)
    except LimbeckError:  # it keeps no accounts
        return "", ""
    return word.partition(" ")[0], ""  # "CANCELLED by 1000"


def _row(said: str, name: str, columns: int) -> list[str]:
    """The cells after the job's name, of its last row."""
    rows = [line.split("|") for line in said.splitlines()]
    found = [row[1:] for row in rows if row[0] == name and len(row) == columns]
    return found[-1] if found else [""] * (columns - 1)


def _place(profile: Profile, job: str) -> Path:
    return Path(profile.folder) / job
