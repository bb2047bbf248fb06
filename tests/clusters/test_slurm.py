"""The script and Slurm's answers as text; and jobs on a real Slurm of two nodes."""

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import ports
import pytest
import slurm as support
from engine import Bench, digests, until
from pydantic import ValidationError

from clusters import slurm
from clusters.allocation import Word, read_word, say
from clusters.launcher import Order
from clusters.lookup import find_cluster
from clusters.slurm import Profile, read_status, render
from clusters.slurm_script import script
from clusters.supervisor import OUT_OF_TIME, STOPPED, kill_tree
from orchestrator.errors import LimbeckError, UserError

ARGV = ("run", "digits.yaml", "seed=3", "--store", "/scratch/store")
FULL = {
    "python": "/opt/py",
    "partition": "gpu,long",
    "account": "p1",
    "qos": "high",
    "constraint": "a100|h100",
    "gres": "gpu:a100",
    "options": ["--exclusive", "--comment=two words"],
    "setup": "module load cuda\nexport A=1",
    "folder": "/scratch/my jobs",
    "scratch": "/local",
    "interface": "ib0",
    "env": ["HF_TOKEN"],
    "resources": {"nodes": 2, "cpus": 8, "gpus": 4, "memory_gb": 32},
    "time_limit_s": 3601,
    "warning_s": 90,
    "requeues_at_limit": 3,
    "retries": 2,
}
GOLDEN = """#!/bin/bash -l
#SBATCH --job-name=digits-1
#SBATCH --output="/scratch/my jobs/digits-1/output.txt"
#SBATCH --open-mode=append
#SBATCH --export=NONE
#SBATCH --partition=gpu,long
#SBATCH --account=p1
#SBATCH --qos=high
#SBATCH --constraint=a100|h100
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=30518M
#SBATCH --gres=gpu:a100:4
#SBATCH --time=61
#SBATCH --signal=URG@90
#SBATCH --requeue
#SBATCH --exclusive
#SBATCH --comment="two words"
set -e
umask 077
rm -f '/scratch/my jobs/digits-1/word.json'
cd '/work dir'
. '/scratch/my jobs/digits-1/env.sh'
module load cuda
export A=1
export PYTHONUNBUFFERED=1
exec srun --nodes=2 --ntasks=2 --cpus-per-task=8 --export=ALL /opt/py -m clusters.allocation \
'--folder=/scratch/my jobs/digits-1' --scratch=/local --interface=ib0 --nodes=2 --cpus=8 --gpus=4 \
--memory=32000000000 --join-s=600 --retries=2 --requeues=3 -- /opt/py -m orchestrator run digits.yaml seed=3 \
--store /scratch/store
"""


def profile(**fields) -> Profile:
    return Profile.model_validate_json(json.dumps({"kind": "slurm"} | fields))


def order(*argv: str, env: dict[str, str] | None = None) -> Order:
    return Order("digits-1", argv or ARGV, Path("/work dir"), env or {})


def test_golden():
    submission = render(profile(**FULL), order(env={"HF_TOKEN": "hf_very_secret"}))
    assert submission.files == {"job.sh": GOLDEN}
    assert submission.command == ("sbatch", "--parsable", "/scratch/my jobs/digits-1/job.sh")


def test_what_is_not_said_is_slurms_to_choose():
    text = script(profile(requeue=False), order())
    assert not [name for name in ("partition", "account", "gres", "time", "--requeue") if f"-{name}" in text]
    assert "#SBATCH --no-requeue\n" in text
    assert "env.sh" not in text


def test_bash_brings_every_argument_whole():
    argv = ["$(touch x)", "`id`", "a b", "it's", '"', "\\", "new\nline", "$HOME", "*", "é", "#", ""]
    text = script(profile(), order("run", *argv))
    line = text[text.index("exec srun") :].replace("exec", "printf '%s\\0'", 1)
    said = subprocess.run(["bash", "-c", line], capture_output=True, check=True).stdout.decode()
    assert said.split("\0")[-len(argv) - 1 : -1] == argv


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"partitions": "x"}, "Extra inputs"),
        ({"partition": "a b"}, "partition"),
        ({"constraint": 'a"b'}, "constraint"),
        ({"options": ["-p x"]}, "expected --name"),
        ({"options": ["--partition=x"]}, "use `partition`"),
        ({"options": ["--array=1-4"]}, "not for a job of Limbeck"),
        ({"options": ["--comment=a\n#SBATCH --uid=0"]}, "expected --name"),
        ({"folder": "jobs"}, "absolute path"),
        ({"scratch": "/a%j"}, "absolute path"),
        ({"mounts": {"/a": "b"}}, "not for this kind"),
        ({"exclude": ["*.pt"]}, "not for this kind"),
        ({"resources": {"cpus": 1.5}}, "whole cores"),
        ({"time_limit_s": 100}, "at least 120"),
        ({"requeue": False, "requeues_at_limit": 1}, "needs `requeue: true`"),
    ],
)
def test_what_cannot_be_honoured_is_refused(fields, message):
    with pytest.raises(ValidationError, match=message):
        profile(**fields)


def test_a_field_that_is_not_there_gets_the_nearest_name(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("kind: slurm\npartion: gpu\n")
    with pytest.raises(UserError, match=r"mine\.yaml.*partion.*partition"):
        find_cluster(str(path))


def test_the_profile_that_comes_with_limbeck():
    assert "--requeues=5" in script(find_cluster("slurm").profile, order())


@pytest.mark.parametrize(
    ("word", "code", "stop", "phase", "said"),
    [
        ("PENDING", None, False, "waiting", ""),
        ("PENDING", OUT_OF_TIME, False, "waiting", ""),  # queued again
        ("RUNNING", None, True, "running", ""),
        ("COMPLETING", 0, False, "running", ""),
        ("COMPLETED", 0, False, "done", ""),
        ("FAILED", 0, False, "done", ""),  # a node that left badly, after the run was done
        ("", 0, False, "done", ""),
        ("FAILED", 3, False, "failed", "exit code 3"),
        ("", -9, False, "failed", "killed by signal 9"),
        ("FAILED", None, False, "failed", "before the run began"),
        ("FAILED", OUT_OF_TIME, False, "failed", "its time limit was over"),
        ("TIMEOUT", None, False, "failed", "its time limit was over"),
        ("TIMEOUT", STOPPED, False, "failed", "its time limit was over"),
        ("NODE_FAIL", None, False, "failed", "launch it again"),
        ("PREEMPTED", STOPPED, False, "failed", "launch it again"),
        ("OUT_OF_MEMORY", None, False, "failed", "launch it again"),
        ("FAILED", STOPPED, True, "stopped", ""),
        ("CANCELLED", None, False, "stopped", ""),
        ("", STOPPED, False, "stopped", ""),
        ("", None, True, "stopped", ""),
        ("", None, False, "failed", "it left no word"),
        ("NEW_WORD", None, False, "unknown", "does not know"),
    ],
)
def test_phases(word, code, stop, phase, said):
    found = read_status(word, code, stop)
    assert found.phase == phase
    assert said in found.message


def test_no_slurm(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    here = profile(folder=str(tmp_path))
    assert slurm.status(here, "digits-1").phase == "unknown"
    (tmp_path / "digits-1").mkdir()
    (tmp_path / "digits-1" / "slurm_job").write_text("12")
    say(tmp_path / "digits-1", Word(0, "n1:1", 0))
    assert "cannot be started here" in slurm.status(here, "digits-1").message
    [controller] = slurm.check(here)
    assert not controller.ok
    with pytest.raises(LimbeckError, match="was not stopped"):
        slurm.stop(here, "digits-1")
    with pytest.raises(LimbeckError, match="has no output yet"):
        slurm.logs(here, "digits-1", follow=False)


@pytest.fixture
def ray_env(tmp_path, monkeypatch):
    """What srun would set on each of two nodes that are both this machine."""

    def env(rank: int) -> dict[str, str]:
        own = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SLURM_"))}
        return own | {"SLURM_PROCID": str(rank), "SLURM_JOB_ID": "7", "SLURM_LAUNCH_NODE_IPADDR": "127.0.0.1"}

    return env


@pytest.mark.faults
def test_two_nodes_make_one_ray_and_leave_nothing(ray_env, tmp_path):
    """Without Slurm: Ray comes up with the token, without which its ports do nothing and tell nothing; the
    command runs on the first node; files and processes go."""
    (tmp_path / "token").write_text("0123456789abcdef" * 4)
    say(tmp_path, Word(3, "127.0.0.1:1"))  # of an earlier start: nobody is to hear it
    code = (
        "import os, pathlib, ray, time; ray.init(os.environ['LIMBECK_RAY_ADDRESS']); "
        f"folder = pathlib.Path({str(tmp_path)!r}); (folder / 'up').touch(); "
        "[time.sleep(0.2) for _ in iter((folder / 'asked').exists, True)]; "
        "print('cpus', ray.cluster_resources()['CPU']); exit(7)"
    )
    with tempfile.TemporaryDirectory(prefix="lb") as scratch:
        given = [f"--folder={tmp_path}", f"--scratch={scratch}", "--nodes=2", "--cpus=1", "--gpus=0"]
        given += ["--memory=1000000000", "--join-s=300", "--", sys.executable, "-c", code]
        command, pipe = [sys.executable, "-m", "clusters.allocation", *given], subprocess.PIPE
        nodes = [
            subprocess.Popen(command, env=ray_env(rank), stdout=pipe, stderr=pipe, text=True)
            for rank in (0, 1)
        ]
        try:
            until(lambda: (tmp_path / "up").exists() or nodes[0].poll() is not None)
            answers = {port: ports.asked(port) for node in nodes for port in ports.listening(node.pid)}
            (tmp_path / "asked").touch()
            said = [node.communicate(timeout=400) for node in nodes]
        finally:
            for node in nodes:
                kill_tree(node.pid)
        assert [node.returncode for node in nodes] == [7, 0], said
        assert "cpus 2.0" in said[0][0]
        assert not list(Path(scratch).iterdir())
    assert len({port.process for port, answer in answers.items() if answer.refused}) > 5
    assert set().union(*(answer.given for answer in answers.values())) == set()
    assert read_word(tmp_path).code == 7


@pytest.fixture
def cluster():
    """A Slurm of two nodes, and a folder that they share."""
    if reason := support.missing():
        pytest.skip(f"no Slurm here: {reason}")
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    try:
        with support.slurm(folder) as running:
            yield running
    finally:
        shutil.rmtree(folder)


class Login(Bench):
    """A login node: a working directory, profiles, and what a person types there."""

    def profile(self, name: str, **fields) -> str:
        path = self.folder / f"{name}.yaml"
        path.write_text(json.dumps({"kind": "slurm", "env": ["PYTHONPATH"], "join_s": 300} | fields))
        return str(path)

    def launch(self, cluster: str, *overrides: str, store: Path | None = None) -> str:
        """Submits; marks and store are the job's own."""
        name = Path(cluster).stem
        (self.folder / "marks" / name).mkdir()
        argv = ["launch", "walks.yaml", f"walk.folder={self.folder}/marks/{name}", *overrides]
        place = str(store or self.folder / f"store-{name}")
        return self.limbeck(*argv, "--cluster", cluster, "--store", place, "--json").json["job"]

    def phase(self, job: str) -> tuple[str, str]:
        said = self.limbeck("status", job, "--json").json
        return said["phase"], said["message"]

    def ended(self, job: str) -> tuple[str, str]:
        until(lambda: slurm.status(profile(), job).phase not in ("waiting", "running"))
        return self.phase(job)

    def marked(self, name: str, what: str) -> None:
        until(lambda: list((self.folder / "marks" / name).glob(f"{what}-*")))


@pytest.fixture
def login(cluster, monkeypatch):
    monkeypatch.setenv("SLURM_CONF", str(cluster.conf))
    monkeypatch.setenv("LIMBECK_HOME", str(cluster.conf.parent / "home"))
    return Login(cluster.conf.parent / "work")


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_jobs_on_a_real_slurm(cluster, login, tmp_path):
    """Several at once, which takes as long as the longest: one that is queued again and goes on, one whose store the
    nodes do not share, one that is stopped, one that is stopped while it waits, one whose time is over."""
    home, scratch = cluster.conf.parent / "home" / "jobs", str(cluster.scratch)
    two = {"resources": {"nodes": 2, "cpus": 2, "memory_gb": 2}, "scratch": scratch}
    one = two | {"resources": {"cpus": 1, "memory_gb": 2}}
    long = ("walk.steps=9999", "walk.pause_s=0.5", "walk.walks=1")
    hang = ("walk.trouble=hang", "walk.at=[0]", "walk.times=9", "walk.walks=1")

    again_profile = login.profile("again", **two, requeues_at_limit=1)
    assert login.limbeck("clusters", again_profile, "--check", "--json").json[0]["ok"]
    again = login.launch(again_profile, "walk.pause_s=1")
    late = login.launch(login.profile("late", **one, time_limit_s=120), *hang)
    waits = login.launch(login.profile("waits", **one, options=["--begin=now+1hour"]))
    assert login.phase(waits)[0] == "waiting"
    login.limbeck("stop", waits)
    assert login.phase(waits)[0] == "stopped"

    login.marked("again", "start")
    assert login.phase(again)[0] == "running"
    number = (home / again / "slurm_job").read_text()
    subprocess.run(["scancel", "--signal=URG", number], check=True)  # as Slurm when the time is nearly over
    stopped = login.launch(login.profile("stopped", **one), *long)
    apart = login.launch(login.profile("apart", **two), store=cluster.local / "store")

    login.marked("stopped", "start")
    login.limbeck("stop", stopped)
    assert login.ended(stopped)[0] == "stopped"
    login.limbeck("stop", stopped)  # no error where it has ended

    phase, message = login.ended(late)
    assert phase == "failed"
    assert "its time limit was over" in message
    phase, message = login.ended(apart)
    assert phase == "failed"
    assert "exit code 3" in message
    assert "it does not see the store" in login.limbeck("logs", apart).out

    said = login.limbeck("logs", again, "-f", timeout=900).out
    assert "back into the queue" in said
    assert login.ended(again)[0] == "done"
    assert read_word(home / again).attempt == 1
    plain = Bench(tmp_path / "plain").run()
    assert digests(login.run("--store", str(login.folder / "store-again"))) == digests(plain)

    token = home / again / "token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert token.read_text() not in said
    until(lambda: not cluster.left(), 90, cluster.left)

    (home / again / "slurm_job").write_text("999999")  # one that Slurm does not know any more
    assert slurm.status(find_cluster(again_profile).profile, again).phase == "done"
