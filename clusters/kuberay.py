"""What KubeRay is given: a RayJob with a cluster of its own, or for a RayCluster that runs, and that RayCluster.

Plain values for KubeRay 1.5.1 and later: earlier ones have no token authentication.
"""

import hashlib
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from clusters.attached import ADDRESS
from clusters.kubernetes_profile import Profile

Manifest = dict[str, Any]
_LONGEST_NAME = 47
"""What KubeRay allows for a RayJob: it makes longer names from it."""
_GRACE_S = 120
"""Between SIGTERM for the driver, when the job is stopped, and SIGKILL."""
_JOBS = "limbeck/job"


class _Dumper(yaml.SafeDumper):
    """Quotes words that kubectl's YAML, which is Go's, takes for a truth value or a number and Python's does not."""


_Dumper.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^[yYnN]$"), list("yYnN"))
_Dumper.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?0[oO][0-7_]+$"), list("-+0"))
_NUMBER = re.compile(r"^[-+]?(\.\d+|\d+(\.\d*)?)([eE][-+]?\d+)?$")
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _NUMBER, list("-+.0123456789"))


def written(manifest: Manifest) -> str:
    """A manifest as YAML that kubectl reads as the same values."""
    text: str = yaml.dump(manifest, Dumper=_Dumper, sort_keys=False, width=110, default_flow_style=False)
    return text


def object_name(job: str) -> str:
    """The objects' name for a job of ours: a letter first (DNS-1035), and short enough for KubeRay."""
    name = job if job[0].isalpha() else f"job-{job}"
    if len(name) <= _LONGEST_NAME and not name.endswith("-"):
        return name
    return f"{name[: _LONGEST_NAME - 9].rstrip('-')}-{hashlib.sha256(job.encode()).hexdigest()[:8]}"


def ray_job(profile: Profile, job: str, argv: Sequence[str], secret: bool) -> Manifest:
    """A RayJob that runs `limbeck ARGV`; with `secret` its pods read their variables from the Secret of its name."""
    name = object_name(job)
    spec: Manifest = {"submissionMode": "K8sJobMode", "entrypoint": _entrypoint(profile, argv)}
    if profile.upload is not None:
        spec["runtimeEnvYAML"] = f"working_dir: {profile.upload}/{job}.zip\n"
    if profile.time_limit_s is not None:
        spec["activeDeadlineSeconds"] = math.floor(profile.time_limit_s)
    if profile.cluster is not None:
        spec["clusterSelector"] = {"ray.io/cluster": profile.cluster}
    else:
        spec |= {
            "backoffLimit": profile.retries,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": profile.keep_s,
            "rayClusterSpec": _cluster(profile, name if secret else None),
        }
    labels = {_JOBS: job} | ({} if profile.cluster else _gang(profile, name))
    return _object("RayJob", profile, name, labels, spec)


def ray_cluster(profile: Profile) -> Manifest:
    """The RayCluster that `cluster` names, for who has none yet: it runs until it is deleted."""
    assert profile.cluster is not None
    return _object(
        "RayCluster", profile, profile.cluster, _gang(profile, profile.cluster), _cluster(profile, None)
    )


def secret(profile: Profile, name: str, owner: str, env: Mapping[str, str]) -> Manifest:
    """The Secret of a RayJob, which Kubernetes deletes together with it; `owner` is the RayJob's uid."""
    reference = {"apiVersion": "ray.io/v1", "kind": "RayJob", "name": name, "uid": owner}
    metadata = {"name": name, "namespace": profile.namespace, "ownerReferences": [reference]}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata,
        "type": "Opaque",
        "stringData": dict(env),
    }


def _object(kind: str, profile: Profile, name: str, labels: Mapping[str, str], spec: Manifest) -> Manifest:
    metadata: Manifest = {"name": name, "namespace": profile.namespace}
    if labels:
        metadata["labels"] = dict(labels)
    return {"apiVersion": "ray.io/v1", "kind": kind, "metadata": metadata, "spec": spec}


def _entrypoint(profile: Profile, argv: Sequence[str]) -> str:
    """A line for the shell of KubeRay's submitter. `$$` is how Kubernetes, which fills in $(NAME), is told `$`."""
    folder = [] if profile.directory is None else [f"--chdir={profile.directory}"]
    line = shlex.join(["env", *folder, f"{ADDRESS}=auto", profile.python, "-m", "orchestrator", *argv])
    return line.replace("$", "$$")


def _gang(profile: Profile, name: str) -> dict[str, str]:
    """Labels by which the gang scheduler knows what belongs together, and its queue."""
    match profile.gang_scheduler:
        case "volcano":
            queue = {"volcano.sh/queue-name": profile.queue} if profile.queue else {}
            return {"ray.io/scheduler-name": "volcano"} | queue
        case "yunikorn":
            queue = {"yunikorn.apache.org/queue": profile.queue} if profile.queue else {}
            return {"ray.io/gang-scheduling-enabled": "true", "yunikorn.apache.org/app-id": name} | queue
        case "kueue":
            assert profile.queue is not None
            return {"kueue.x-k8s.io/queue-name": profile.queue}
        case None:
            return {}


def _cluster(profile: Profile, secret: str | None) -> Manifest:
    asked = profile.resources
    head = {"cpu": f"{profile.head_cpus:g}", "memory": _bytes(profile.head_memory_gb)}
    worker = {"cpu": f"{asked.cpus:g}", "memory": _bytes(asked.memory_gb)}
    if asked.gpus:
        worker[profile.gpu_resource] = str(asked.gpus)
    # The operator reaches the dashboard from its own pod, so that loopback would not do; it asks for the token.
    return {
        "rayVersion": profile.ray_version,
        "authOptions": {"mode": "token"},
        "headGroupSpec": {
            "rayStartParams": {"num-cpus": "0", "dashboard-host": "0.0.0.0"},
            "template": {"spec": _pod(profile, "ray-head", head, secret)},
        },
        "workerGroupSpecs": [
            {
                "groupName": "workers",
                "replicas": asked.nodes,
                "minReplicas": asked.nodes,
                "maxReplicas": asked.nodes,
                "rayStartParams": {},
                "template": {"spec": _pod(profile, "ray-worker", worker, secret) | _placing(profile)},
            }
        ],
    }


def _pod(profile: Profile, name: str, resources: Mapping[str, str], secret: str | None) -> Manifest:
    # Requests and limits are equal: a pod that has less than it was promised is the last to be evicted.
    container: Manifest = {
        "name": name,
        "image": profile.image,
        "resources": {"requests": dict(resources), "limits": dict(resources)},
        "env": [{"name": "RAY_JOB_STOP_WAIT_TIME_S", "value": str(_GRACE_S)}],
    }
    if secret is not None:
        container["envFrom"] = [{"secretRef": {"name": secret}}]
    pod: Manifest = {"containers": [container]}
    if profile.mounts:
        container["volumeMounts"] = [_mount(path, claim) for path, claim in sorted(profile.mounts.items())]
        claims = sorted({claim.partition("/")[0] for claim in profile.mounts.values()})
        pod["volumes"] = [{"name": _volume(c), "persistentVolumeClaim": {"claimName": c}} for c in claims]
    if profile.service_account is not None:
        pod["serviceAccountName"] = profile.service_account
    if profile.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": pull} for pull in profile.image_pull_secrets]
    return pod


def _placing(profile: Profile) -> Manifest:
    placing: Manifest = {}
    if profile.node_selector:
        placing["nodeSelector"] = dict(profile.node_selector)
    if profile.tolerations:
        placing["tolerations"] = [taint.model_dump(exclude_none=True) for taint in profile.tolerations]
    return placing


def _mount(path: str, claim: str) -> Manifest:
    name, _, folder = claim.partition("/")
    return {"name": _volume(name), "mountPath": path} | ({"subPath": folder} if folder else {})


def _volume(claim: str) -> str:
    """A volume's name is a DNS label, shorter and without the dots that a claim's may have."""
    return f"claim-{hashlib.sha256(claim.encode()).hexdigest()[:8]}"


def _bytes(gb: float) -> str:
    return f"{round(gb * 1000)}M"
