"""The task against SkyPilot's own schema, and what its nodes run, on this machine as a node."""

import json
import os
import shlex
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import jsonschema
import psutil
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from clusters.clients import Unanswered
from clusters.launcher import Order
from clusters.lookup import find_cluster
from clusters.skypilot import (
    PORT,
    Profile,
    check,
    logs,
    read_status,
    render,
    script,
    status,
    stop,
    submit,
    task,
)
from orchestrator.errors import UserError

SCHEMA = json.loads((Path(__file__).parent.parent / "data" / "skypilot_schema.json").read_text())
ARGV = ("run", "digits.yaml", "seed=3", "--store", "s3://bucket/limbeck")
GOLDEN = r"""set -eu
umask 077
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$HOME/.digits-1.token"
printf %s "$LIMBECK_RAY_TOKEN" > "$RAY_AUTH_TOKEN_PATH"
unset LIMBECK_RAY_TOKEN RAY_ADDRESS
address="$(printf '%s\n' "$SKYPILOT_NODE_IPS" | head -n 1):6379"
ray() { python3 -m ray.scripts.scripts "$@"; }
if [ "$SKYPILOT_NODE_RANK" != 0 ]; then
  until ray health-check --address "$address" > /dev/null 2>&1; do
    if [ "$SECONDS" -gt 600 ]; then echo "limbeck: no Ray at $address after 600 s" >&2; exit 1; fi
    sleep 2
  done
  ray start --address "$address" --dashboard-agent-listen-port 52366
  sleep 5
  exit 0
fi
ray start --head --node-ip-address "${address%:*}" --port 6379 --dashboard-agent-listen-port 52366 \
  --include-dashboard false --disable-usage-stats
python3 -m clusters.joined "$address" 2 600
export LIMBECK_RAY_ADDRESS="$address"
exec python3 -m clusters.supervisor --retries 2 --time-limit 3600 -- python3 -m orchestrator run digits.yaml seed=3 --store s3://bucket/limbeck
"""  # noqa: E501
FULL = {
    "infra": "aws/us-east-1",
    "accelerator": "A100",
    "use_spot": True,
    "image": "docker:registry/limbeck:1",
    "disk_gb": 200,
    "setup": "pip install limbeck",
    "mounts": {"/data": "s3://bucket/data", "/shared": "volume"},
    "resources": {"nodes": 2, "cpus": 8, "gpus": 4, "memory_gb": 32},
    "env": ["HF_TOKEN"],
    "time_limit_s": 3600,
    "retries": 2,
}


def profile(**fields) -> Profile:
    return Profile.model_validate_json(json.dumps({"kind": "skypilot"} | fields))


def order(*argv: str, env: dict[str, str] | None = None, folder: Path = Path()) -> Order:
    return Order("digits-1", argv or ARGV, folder, env or {})


def test_golden():
    submission = render(profile(**FULL), order(env={"HF_TOKEN": "hf_very_secret"}))
    written = yaml.safe_load(submission.files["task.yaml"])
    assert written.pop("run") == GOLDEN
    assert "run: |\n  set -eu\n  umask 077\n" in submission.files["task.yaml"]
    assert written == {
        "name": "digits-1",
        "num_nodes": 2,
        "resources": {
            "infra": "aws/us-east-1",
            "cpus": "8+",
            "memory": "32+",
            "accelerators": {"A100": 4},
            "use_spot": True,
            "image_id": "docker:registry/limbeck:1",
            "disk_size": 200,
        },
        "file_mounts": {"/data": {"source": "s3://bucket/data", "mode": "MOUNT"}},
        "volumes": {"/shared": "volume"},
        "setup": "pip install limbeck",
    }
    assert submission.command == (
        *("sky", "jobs", "launch", "--name", "digits-1", "--yes", "--detach-run", "--workdir", "working_dir"),
        *("--secret", "HF_TOKEN", "--secret", "LIMBECK_RAY_TOKEN", "task.yaml"),
    )
    assert "hf_very_secret" not in str(submission)


@pytest.mark.parametrize(
    "fields", [{}, FULL, {"mounts": {"/a": "gs://bucket"}}, {"resources": {"cpus": 0.5}}]
)
def test_every_task_is_skypilots(fields):
    written = yaml.safe_load(render(profile(**fields), order()).files["task.yaml"])
    jsonschema.Draft202012Validator(SCHEMA).validate(written)
    with pytest.raises(jsonschema.ValidationError, match="cpu'"):
        jsonschema.Draft202012Validator(SCHEMA).validate(written | {"resources": {"cpu": 1}})


@pytest.mark.parametrize("fields", [{}, FULL])
def test_skypilot_takes_every_task(fields, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    sky = pytest.importorskip("sky", reason="SkyPilot is not installed beside us")
    values = yaml.safe_load(render(profile(**fields), order()).files["task.yaml"])
    assert sky.Task.from_yaml_config(values).num_nodes == profile(**fields).resources.nodes


@given(st.lists(st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=8)))
@settings(max_examples=100, deadline=None)
def test_the_last_line_brings_every_argument_whole(argv):
    text = yaml.safe_load(render(profile(), order("run", *argv)).files["task.yaml"])["run"]
    assert text == script(profile(), order("run", *argv))
    words = shlex.split(text[text.index("exec python3") :])
    assert words[words.index("--", 1) + 4 :] == ["run", *argv]


def test_bash_brings_every_argument_whole():
    argv = ["$(touch x)", "`id`", "a b", "it's", '"', "\\", "new\nline", "$HOME", "*", "é", ""]
    text = script(profile(), order("run", *argv))
    line = text[text.index("exec python3") :].replace("exec", "printf '%s\\0'", 1)
    said = subprocess.run(["bash", "-c", line], capture_output=True, check=True).stdout.decode()
    assert said.split("\0")[-len(argv) - 1 : -1] == argv


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"resources": {"gpus": 1}}, "belong together"),
        ({"accelerator": "A100"}, "belong together"),
        ({"mounts": {"/data": "./here"}}, "a volume's name"),
        ({"mounts": {"data": "s3://b"}}, "absolute path"),
        ({"disk_gb": 0}, "disk_gb"),
        ({"region": "x"}, "Extra inputs"),
    ],
)
def test_what_cannot_be_honoured_is_refused(fields, message):
    with pytest.raises(ValidationError, match=message):
        profile(**fields)


@pytest.mark.parametrize(
    ("word", "phase"),
    [
        ("PENDING", "waiting"),
        ("RECOVERING", "waiting"),
        ("RUNNING", "running"),
        ("SUCCEEDED", "done"),
        ("CANCELLED", "stopped"),
        ("FAILED", "failed"),
        ("FAILED_NO_RESOURCE", "failed"),
        ("NEW_WORD", "unknown"),
    ],
)
def test_phases(word, phase):
    rows = [{"job_name": "other", "status": "RUNNING"}, {"job_name": "digits-1", "status": word}]
    assert read_status("Fetching jobs...\n" + json.dumps(rows, indent=2), "digits-1").phase == phase


@pytest.mark.parametrize("said", ["", "No jobs", "[", "[]"])
def test_what_is_no_answer_is_unknown(said):
    assert read_status(said, "digits-1").phase == "unknown"


def test_a_status_has_skypilots_words():
    rows = [
        {"job_name": "digits-1", "status": "FAILED_NO_RESOURCE", "failure_reason": "no A100", "details": None}
    ]
    assert read_status(json.dumps(rows), "digits-1").message == "FAILED_NO_RESOURCE: no A100"


def test_no_skypilot(tmp_path):
    absent = profile(client=str(tmp_path / "sky"))
    assert "cannot be started here" in status(absent, "digits-1").message
    [server] = check(absent)
    assert not server.ok
    with pytest.raises(UserError, match="cannot be started here"):
        logs(absent, "digits-1", follow=False)
    with pytest.raises(Unanswered, match="was not stopped"):
        stop(absent, "digits-1")


def test_what_travels_is_copied_without_what_stays_behind(tmp_path):
    code, job = tmp_path / "code", tmp_path / "job"
    (code / "sub").mkdir(parents=True)
    job.mkdir()
    for name in ("digits.yaml", "weights.pt", "sub/notes.txt", "sub/seen.log"):
        (code / name).write_text(name)
    (code / ".gitignore").write_text("*.log\n")
    asked = profile(exclude=["*.pt"], client=str(tmp_path / "sky"))
    with pytest.raises(UserError, match="cannot be started here"):
        submit(asked, order(folder=code), render(asked, order()), job)
    copied = job / "working_dir"
    names = {path.relative_to(copied).as_posix() for path in copied.rglob("*") if path.is_file()}
    assert names == {".gitignore", "digits.yaml", "sub/notes.txt"}


def test_the_profile_that_comes_with_limbeck():
    values = task(find_cluster("skypilot").profile, order())
    jsonschema.Draft202012Validator(SCHEMA).validate(values)


@pytest.mark.faults
def test_the_script_on_two_nodes(tmp_path):
    """Both are this machine: Ray comes up with the token, the second node joins, then the first runs the driver."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # A socket's path has 107 bytes at most, and pytest's folders are long.
    with tempfile.TemporaryDirectory(prefix="sky") as ray_files:
        two = profile(python=sys.executable, resources={"nodes": 2})
        text = script(two, order("tasks", "--json")).replace(f":{PORT}", f":{port}")
        text = text.replace(f"--port {PORT}", f"--port {port}").replace(
            "--head", f"--head --temp-dir {ray_files}"
        )
        try:
            nodes = [node(text, str(rank), tmp_path) for rank in (0, 1)]
            said = [each.communicate(timeout=250) for each in nodes]
            assert [each.returncode for each in nodes] == [0, 0], said
        finally:
            end_ray(ray_files)
    token = tmp_path / ".digits-1.token"
    assert "train_teacher" in said[0][0]
    assert "train_teacher" not in said[1][0]
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert token.read_text() not in str(said)


def node(text: str, rank: str, home: Path) -> "subprocess.Popen[str]":
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    env |= {"HOME": str(home), "SKYPILOT_NODE_IPS": "127.0.0.1\n127.0.0.1", "SKYPILOT_NODE_RANK": rank}
    env |= {"LIMBECK_RAY_TOKEN": "0123456789abcdef" * 4}
    pipe = subprocess.PIPE
    return subprocess.Popen(["bash", "-c", text], env=env, stdout=pipe, stderr=pipe, text=True)


def end_ray(folder: str) -> None:
    """The processes of the Ray whose files lie there; `ray stop` would end every Ray of this machine."""
    running = psutil.process_iter(["cmdline"])
    found = [process for process in running if folder in " ".join(process.info["cmdline"] or [])]
    for process in found:
        process.kill()
    psutil.wait_procs(found, timeout=30)
