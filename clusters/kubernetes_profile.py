"""What a profile of kind `kubernetes` says."""

import re
from importlib.metadata import version
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, field_validator, model_validator

from clusters import profile
from orchestrator.task import Settings

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]
"""A name of an object, as Kubernetes takes it."""
Label = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$")]
_CLAIM = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?(/[^/]+)*")
_UPLOAD = re.compile(r"(s3|gs)://[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*")


class Toleration(Settings):
    """A taint of nodes that the pods stand, in the words of Kubernetes."""

    key: str | None = None
    """Unset: every taint."""
    operator: Literal["Exists", "Equal"] = "Exists"
    """Equal compares the value too."""
    value: str | None = None
    """With Equal."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Unset: every effect."""


class Profile(profile.Profile):
    """Pods under KubeRay 1.5.1 or later. `mounts`: path to CLAIM or CLAIM/FOLDER, a persistent volume claim.

    `resources.nodes` worker pods do the work. The head is one more pod; it holds the driver and no shard.
    """

    kind: Literal["kubernetes"]
    """kubernetes."""
    image: str = Field(min_length=1)
    """Image of all pods: Ray and limbeck in the versions of here."""
    namespace: Name = "default"
    """Where the objects are made."""
    context: str | None = None
    """kubectl's context; unset: its current one."""
    kubeconfig: str | None = None
    """kubectl's configuration file; unset: where kubectl looks for it."""
    directory: str | None = None
    """Folder in the image or on a mount in which the run starts; unset: the image's own."""
    upload: str | None = None
    """s3://BUCKET/PREFIX or gs://BUCKET/PREFIX: the working directory goes there as a zip file and Ray fetches it on
    each node, which needs smart_open in the image. Unset: no file travels, the code is in the image or on a mount."""
    cluster: Name | None = None
    """A RayCluster that runs: the job is given to it. Unset: each job has a cluster of its own."""
    ray_version: str = Field(default_factory=lambda: version("ray"))
    """Ray in the image."""
    head_cpus: float = Field(default=2.0, gt=0)
    """CPU cores of the head pod."""
    head_memory_gb: float = Field(default=8.0, gt=0)
    """Main memory of the head pod in GB."""
    gpu_resource: str = "nvidia.com/gpu"
    """What the nodes call a GPU."""
    service_account: Name | None = None
    """Service account of the pods; unset: the namespace's default."""
    image_pull_secrets: tuple[Name, ...] = ()
    """Secrets with which the image is fetched."""
    node_selector: dict[str, str] = {}
    """Labels that the workers' nodes carry."""
    tolerations: tuple[Toleration, ...] = ()
    """Taints that the workers stand."""
    gang_scheduler: Literal["volcano", "yunikorn", "kueue"] | None = None
    """Who starts all pods of a job or none; it has to be installed. Unset: Kubernetes, one by one."""
    queue: Label | None = None
    """The gang scheduler's queue; Kueue needs one."""
    keep_s: int = Field(default=600, ge=0)
    """Seconds for which pods stay after the job has ended, to be looked at."""

    @field_validator("upload")
    @classmethod
    def _object_store(cls, uri: str | None) -> str | None:
        if uri is not None and not _UPLOAD.fullmatch(uri):
            raise ValueError("expected s3://BUCKET/PREFIX or gs://BUCKET/PREFIX")
        return uri

    @field_validator("mounts")
    @classmethod
    def _claims(cls, mounts: dict[str, Any]) -> dict[str, Any]:
        for path, claim in mounts.items():
            if not _CLAIM.fullmatch(claim) or ".." in claim.split("/"):
                raise ValueError(
                    f"{path}: {claim!r}: expected CLAIM or CLAIM/FOLDER, a persistent volume claim"
                )
        return mounts

    @field_validator("time_limit_s")
    @classmethod
    def _whole_seconds(cls, seconds: float | None) -> float | None:
        if seconds is not None and seconds < 1:
            raise ValueError("expected at least 1 second: Kubernetes counts whole ones")
        return seconds

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.upload is None and (self.working_dir != "." or self.exclude):
            raise ValueError(
                "working_dir and exclude need `upload`: without it no file travels to Kubernetes;"
                " give `upload: s3://BUCKET/PREFIX`, or put the code into the image"
            )
        if self.upload is not None and self.directory is not None:
            raise ValueError(
                "directory and upload: with `upload` the run starts in what was uploaded; keep one"
            )
        if self.cluster is not None and (self.env or self.retries):
            raise ValueError(
                "env and retries need a cluster of the job's own: variables are given to pods when they start, and"
                " KubeRay deletes the cluster before it tries again; leave out `cluster`, `env` or `retries`"
            )
        if self.queue is not None and self.gang_scheduler is None:
            raise ValueError("queue needs `gang_scheduler`: volcano, yunikorn or kueue")
        if self.gang_scheduler == "kueue" and self.queue is None:
            raise ValueError("gang_scheduler kueue needs `queue`, a LocalQueue of the namespace")
        return self
