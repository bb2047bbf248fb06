"""Manifests against KubeRay's schema and kubectl's own reading; kubectl itself against a server that is away."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from clusters.clients import Unanswered
from clusters.kuberay import object_name, ray_cluster, ray_job, secret, written
from clusters.kubernetes import Profile, check, logs, read_status, render, status, stop, submit
from clusters.launcher import Order, Submission
from clusters.lookup import find_cluster
from orchestrator.errors import LimbeckError, UserError

SCHEMA = json.loads((Path(__file__).parent.parent / "data" / "kuberay_schema.json").read_text())
needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
ARGV = ("run", "digits.yaml", "seed=3", "--store", "s3://bucket/limbeck", "--tracking", "http://mlflow:5000")
GOLDEN = """\
apiVersion: ray.io/v1
kind: RayJob
metadata:
  name: digits-1
  namespace: research
  labels:
    limbeck/job: digits-1
    kueue.x-k8s.io/queue-name: team
spec:
  submissionMode: K8sJobMode
  entrypoint: env --chdir=/code LIMBECK_RAY_ADDRESS=auto python3 -m orchestrator run digits.yaml seed=3 --store
    s3://bucket/limbeck --tracking http://mlflow:5000
  activeDeadlineSeconds: 3600
  backoffLimit: 2
  shutdownAfterJobFinishes: true
  ttlSecondsAfterFinished: 600
  rayClusterSpec:
    rayVersion: 2.60.0
    authOptions:
      mode: token
    headGroupSpec:
      rayStartParams:
        num-cpus: '0'
        dashboard-host: 0.0.0.0
      template:
        spec:
          containers:
          - name: ray-head
            image: registry/limbeck:1
            resources:
              requests:
                cpu: '2'
                memory: 8000M
              limits:
                cpu: '2'
                memory: 8000M
            env:
            - name: RAY_JOB_STOP_WAIT_TIME_S
              value: '120'
            envFrom:
            - secretRef:
                name: digits-1
            volumeMounts:
            - name: claim-714284ab
              mountPath: /data
              subPath: cifar
          volumes:
          - name: claim-714284ab
            persistentVolumeClaim:
              claimName: datasets
          serviceAccountName: runner
          imagePullSecrets:
          - name: registry
    workerGroupSpecs:
    - groupName: workers
      replicas: 3
      minReplicas: 3
      maxReplicas: 3
      rayStartParams: {}
      template:
        spec:
          containers:
          - name: ray-worker
            image: registry/limbeck:1
            resources:
              requests:
                cpu: '8'
                memory: 32000M
                nvidia.com/gpu: '4'
              limits:
                cpu: '8'
                memory: 32000M
                nvidia.com/gpu: '4'
            env:
            - name: RAY_JOB_STOP_WAIT_TIME_S
              value: '120'
            envFrom:
            - secretRef:
                name: digits-1
            volumeMounts:
            - name: claim-714284ab
              mountPath: /data
              subPath: cifar
          volumes:
          - name: claim-714284ab
            persistentVolumeClaim:
              claimName: datasets
          serviceAccountName: runner
          imagePullSecrets:
          - name: registry
          nodeSelector:
            pool: a100
          tolerations:
          - key: gpu
            operator: Exists
            effect: NoSchedule
"""
FULL = {
    "namespace": "research",
    "directory": "/code",
    "service_account": "runner",
    "image_pull_secrets": ["registry"],
    "node_selector": {"pool": "a100"},
    "tolerations": [{"key": "gpu", "effect": "NoSchedule"}],
    "gang_scheduler": "kueue",
    "queue": "team",
    "mounts": {"/data": "datasets/cifar"},
    "resources": {"nodes": 3, "cpus": 8, "gpus": 4, "memory_gb": 32},
    "env": ["HF_TOKEN"],
    "time_limit_s": 3600,
    "retries": 2,
}


def profile(**fields) -> Profile:
    values = {"kind": "kubernetes", "image": "registry/limbeck:1", "ray_version": "2.60.0"} | fields
    return Profile.model_validate_json(json.dumps(values))


def order(*argv: str, env: dict[str, str] | None = None, folder: Path = Path()) -> Order:
    return Order("digits-1", argv or ARGV, folder, env or {})


def demand_schema(manifest) -> None:
    """Unknown fields are refused; what the schema covers is told in its `$comment`."""
    kind = manifest["kind"] if manifest["kind"] != "Secret" else "V1Secret"
    jsonschema.Draft202012Validator({"$ref": f"#/$defs/{kind}", "$defs": SCHEMA["$defs"]}).validate(manifest)


def test_golden():
    submission = render(profile(**FULL), order(env={"HF_TOKEN": "hf_very_secret"}))
    assert submission.files == {"job.yaml": GOLDEN}
    assert submission.command == ("kubectl", "--namespace=research", "create", "--filename=job.yaml")
    assert "hf_very_secret" not in str(submission)
    demand_schema(yaml.safe_load(GOLDEN))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"upload": "s3://bucket/code", "exclude": ["*.pt"], "working_dir": "here"},
        {"gang_scheduler": "volcano", "queue": "team"},
        {"gang_scheduler": "yunikorn"},
        {"gang_scheduler": "kueue", "queue": "team"},
        {"mounts": {"/a": "data", "/b": "data/sub", "/c": "long.claim-name"}, "tolerations": [{}]},
        {"cluster": "shared"},
    ],
)
def test_every_shape_is_kuberays(fields):
    asked = profile(**fields)
    demand_schema(ray_job(asked, "digits-1", ARGV, secret=not asked.cluster))
    if asked.cluster:
        demand_schema(ray_cluster(asked))


def test_the_schema_refuses_what_kuberay_would_drop():
    wrong = ray_job(profile(), "digits-1", ARGV, secret=False)
    for path in (("spec",), ("spec", "rayClusterSpec"), ("spec", "rayClusterSpec", "headGroupSpec")):
        broken = json.loads(json.dumps(wrong))
        place = broken
        for name in path:
            place = place[name]
        place["backofLimit"] = 1
        with pytest.raises(jsonschema.ValidationError, match="backofLimit"):
            demand_schema(broken)


def test_a_job_for_a_running_cluster_brings_none_of_its_own():
    files = render(profile(cluster="shared"), order()).files
    job, cluster = yaml.safe_load(files["job.yaml"]), yaml.safe_load(files["cluster.yaml"])
    assert job["spec"]["clusterSelector"] == {"ray.io/cluster": "shared"}
    assert not {"rayClusterSpec", "shutdownAfterJobFinishes", "backoffLimit"} & set(job["spec"])
    assert cluster["metadata"]["name"] == "shared"
    assert cluster["spec"]["authOptions"] == {"mode": "token"}


@given(st.lists(st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=8)))
@settings(max_examples=200, deadline=None)
def test_the_line_brings_every_argument_whole(argv):
    """As KubeRay's submitter does it: Kubernetes fills in $(NAME), one shell splits, Ray joins, another splits."""
    line = ray_job(profile(), "digits-1", argv, secret=False)["spec"]["entrypoint"]
    filled = re.sub(r"\$(\$|\([A-Za-z_]+\))", lambda found: "$" if found[1] == "$" else "FILLED", line)
    assert shlex.split(shlex.join(shlex.split(filled)))[5:] == list(argv)


@given(st.from_regex(r"[a-z0-9]([a-z0-9-]{0,48}[a-z0-9])?", fullmatch=True))
def test_names_of_objects(job):
    name = object_name(job)
    assert re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", name)
    assert len(name) <= 47
    assert name == job or not job[0].isalpha() or len(job) > 47
    demand_schema(secret(profile(), name, "uid", {"A": "1"}))


def test_long_names_that_begin_alike_stay_apart():
    assert object_name("a" * 49 + "b") != object_name("a" * 49 + "c")


WORDS = [
    "y",
    "N",
    "on",
    "yes",
    "0o17",
    "-0o7",
    "1e3",
    "1_000",
    "1:30",
    ".5",
    "0x1F",
    "~",
    "null",
    "=",
    "2001-01-01",
]


@needs_kubectl
@given(
    st.dictionaries(
        st.text("ab", min_size=1), st.one_of(st.sampled_from(WORDS), st.text("yn01eo.:_-+ #'\"\\\n$"))
    )
)
@settings(max_examples=25, deadline=None)
def test_kubectl_reads_what_was_written(values):
    manifest = ray_job(profile(), "digits-1", ("run", *values.values()), secret=False)
    manifest["spec"]["metadata"] = values
    argv = ["kubectl", "annotate", "--local", "--filename=-", "read=yes", "--output=json"]
    done = subprocess.run(
        argv, input=written(manifest), capture_output=True, text=True, timeout=60, check=True
    )
    read = json.loads(done.stdout)
    del read["metadata"]["annotations"]
    assert read == manifest


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image": ""}, "image"),
        ({"exclude": ["*.pt"]}, "need `upload`"),
        ({"working_dir": "here"}, "need `upload`"),
        ({"upload": "s3://b/p", "directory": "/code"}, "keep one"),
        ({"upload": "https://b/p"}, "expected s3://"),
        ({"upload": "s3://b/$(cat x)"}, "expected s3://"),
        ({"cluster": "shared", "env": ["A"]}, "cluster of the job's own"),
        ({"cluster": "shared", "retries": 1}, "cluster of the job's own"),
        ({"queue": "team"}, "gang_scheduler"),
        ({"gang_scheduler": "kueue"}, "LocalQueue"),
        ({"mounts": {"/data": "../etc"}}, "CLAIM"),
        ({"mounts": {"/data": "data/../.."}}, "CLAIM"),
        ({"namespace": "Big_Name"}, "namespace"),
        ({"time_limit_s": 0.5}, "at least 1 second"),
        ({"nodes": 3}, "Extra inputs"),
    ],
)
def test_what_cannot_be_honoured_is_refused(fields, message):
    with pytest.raises(ValidationError, match=message):
        profile(**fields)


@pytest.mark.parametrize(
    ("said", "phase"),
    [
        ({}, "waiting"),
        ({"jobDeploymentStatus": "Initializing"}, "waiting"),
        ({"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}, "running"),
        ({"jobDeploymentStatus": "Retrying"}, "waiting"),
        ({"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}, "done"),
        ({"jobDeploymentStatus": "Complete", "jobStatus": "STOPPED"}, "stopped"),
        ({"jobDeploymentStatus": "Complete", "jobStatus": "FAILED"}, "failed"),
        ({"jobDeploymentStatus": "Failed", "reason": "DeadlineExceeded"}, "failed"),
        ({"jobDeploymentStatus": "Failed", "jobStatus": "STOPPED"}, "stopped"),
        ({"jobDeploymentStatus": "ValidationFailed", "message": "no"}, "failed"),
        ({"jobDeploymentStatus": "Suspended"}, "stopped"),
        ({"jobDeploymentStatus": "SomethingNew"}, "unknown"),
    ],
)
def test_phases(said, phase):
    assert read_status({"metadata": {}, "status": said}).phase == phase


def test_a_status_has_kuberays_words():
    said = {
        "jobDeploymentStatus": "Failed",
        "jobStatus": "FAILED",
        "reason": "AppFailed",
        "message": "exit code 2",
    }
    assert read_status({"metadata": {}, "status": said}).message == "Failed: FAILED: AppFailed: exit code 2"


def test_a_job_that_kueue_holds_back_waits():
    labels = {"kueue.x-k8s.io/queue-name": "team"}
    held = {"metadata": {"labels": labels}, "status": {"jobDeploymentStatus": "Suspended"}}
    assert read_status(held).phase == "waiting"


@pytest.fixture
def away(tmp_path) -> Profile:
    """A profile whose server refuses connections."""
    server = {"name": "away", "cluster": {"server": "http://127.0.0.1:1"}}
    context = {"name": "away", "context": {"cluster": "away", "user": "nobody"}}
    file = tmp_path / "kubeconfig"
    file.write_text(
        json.dumps({"apiVersion": "v1", "kind": "Config", "clusters": [server], "contexts": [context]}
                   | {"users": [{"name": "nobody", "user": {}}]})
    )  # fmt: skip
    return profile(kubeconfig=str(file), context="away")


@needs_kubectl
def test_a_server_that_is_away(away, tmp_path):
    asked = status(away, "digits-1")
    assert asked.phase == "unknown"
    assert "127.0.0.1:1 was refused" in asked.message
    with pytest.raises(LimbeckError, match="no output yet"):
        logs(away, "digits-1", follow=False)
    with pytest.raises(Unanswered, match="was refused"):
        stop(away, "digits-1")
    with pytest.raises(Unanswered, match="connection refused"):
        submit(away, order(), render(away, order()), tmp_path)
    [server] = check(away)
    assert not server.ok
    assert "is the context right?" in server.found


@needs_kubectl
def test_an_unknown_context_is_named(away):
    [server] = check(away.model_copy(update={"context": "elsewhere"}))
    assert "elsewhere" in server.found


def test_no_kubectl(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "kubectl: cannot be started here" in status(profile(), "digits-1").message
    with pytest.raises(UserError, match="install it"):
        submit(profile(), order(), Submission({}, ()), tmp_path)


def test_the_profile_that_comes_with_limbeck():
    cluster = find_cluster("kubernetes")
    demand_schema(ray_job(cluster.profile, "digits-1", ARGV, secret=True))
