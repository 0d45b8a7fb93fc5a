"""KubeRay's manifests, `ray.io/v1`: the fields that are Ray's are known by name, those of Kubernetes stay open.

Written after the documented fields of KubeRay 1.7, not generated from its CRDs: a rare field that is missing here is refused
too, and belongs in this file. The operator may drop a field that it does not know without a word, so a typo there costs a
night of GPUs.
"""

from typing import Any, Literal

from pydantic import ConfigDict, Field
from pydantic.alias_generators import to_camel

from raypixel.config import Frozen

Open = dict[str, Any]
"""A part that is Kubernetes' own: a pod template, a service, a container's resources."""


class Manifest(Frozen):
    """Base of all: keys in camel case."""

    model_config = ConfigDict(alias_generator=to_camel)


class AuthOptions(Manifest):
    """Who may talk to the cluster."""

    mode: Literal["disabled", "token"] = "disabled"
    secret_name: str | None = None
    enable_k8s_token_auth: bool | None = Field(None, alias="enableK8sTokenAuth")


class AutoscalerOptions(Manifest):
    """The autoscaler's container beside the head's."""

    version: Literal["v1", "v2"] | None = None
    resources: Open | None = None
    image: str | None = None
    image_pull_policy: str | None = None
    env: list[Open] = Field(default_factory=list)
    env_from: list[Open] = Field(default_factory=list)
    volume_mounts: list[Open] = Field(default_factory=list)
    security_context: Open | None = None
    idle_timeout_seconds: int | None = Field(None, ge=0)
    upscaling_mode: Literal["Default", "Aggressive", "Conservative"] | None = None


class PodTemplate(Frozen):
    """A pod template: its metadata and its spec, both Kubernetes' own."""

    metadata: Open | None = None
    spec: Open


class HeadGroup(Manifest):
    """The head's pod."""

    service_type: str | None = None
    head_service: Open | None = None
    enable_ingress: bool | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    resources: dict[str, str] = Field(default_factory=dict)
    ray_start_params: dict[str, str] = Field(default_factory=dict)
    template: PodTemplate


class ScaleStrategy(Manifest):
    """Which pods go."""

    workers_to_delete: list[str] = Field(default_factory=list)


class WorkerGroup(Manifest):
    """Workers of one kind."""

    group_name: str
    replicas: int | None = Field(None, ge=0)
    min_replicas: int = Field(ge=0)
    max_replicas: int = Field(ge=0)
    num_of_hosts: int = Field(1, ge=1)
    idle_timeout_seconds: int | None = Field(None, ge=0)
    priority: int | None = None
    suspend: bool | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    resources: dict[str, str] = Field(default_factory=dict)
    ray_start_params: dict[str, str] = Field(default_factory=dict)
    template: PodTemplate
    scale_strategy: ScaleStrategy | None = None


class ClusterSpec(Manifest):
    """A Ray cluster."""

    ray_version: str
    head_group_spec: HeadGroup
    worker_group_specs: list[WorkerGroup] = Field(default_factory=list)
    enable_in_tree_autoscaling: bool = False
    autoscaler_options: AutoscalerOptions | None = None
    auth_options: AuthOptions = AuthOptions()
    gcs_fault_tolerance_options: Open | None = None
    tls_options: Open | None = None
    network_policy: Open | None = None
    upgrade_strategy: Open | None = None
    head_service_annotations: dict[str, str] = Field(default_factory=dict)
    managed_by: str | None = None
    suspend: bool | None = None


class JobSpec(Manifest):
    """A job with a cluster of its own."""

    entrypoint: str = Field(min_length=1)
    runtime_env_yaml: str | None = Field(None, alias="runtimeEnvYAML")
    ray_cluster_spec: ClusterSpec | None = None
    cluster_selector: dict[str, str] | None = None
    submission_mode: Literal["K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode"] = (
        "K8sJobMode"
    )
    submitter_pod_template: Open | None = None
    submitter_config: Open | None = None
    entrypoint_num_cpus: float | int | None = None
    entrypoint_num_gpus: float | int | None = None
    entrypoint_resources: str | None = None
    job_id: str | None = None
    metadata: dict[str, str] = Field(default_factory=dict)
    shutdown_after_job_finishes: bool = False
    ttl_seconds_after_finished: int = Field(0, ge=0)
    active_deadline_seconds: int | None = Field(None, ge=1)
    pre_running_deadline_seconds: int | None = Field(None, ge=1)
    backoff_limit: int = Field(0, ge=0)
    deletion_strategy: Open | None = None
    managed_by: str | None = None
    suspend: bool = False


class ServiceSpec(Manifest):
    """A Serve application with a cluster of its own."""

    serve_config_v2: str = Field(alias="serveConfigV2")
    ray_cluster_config: ClusterSpec
    upgrade_strategy: Open | None = None
    serve_service: Open | None = None
    exclude_head_pod_from_serve_svc: bool | None = None


class _Document(Manifest):
    api_version: Literal["ray.io/v1"]
    metadata: Open


class RayCluster(_Document):
    """A cluster that stays."""

    kind: Literal["RayCluster"]
    spec: ClusterSpec


class RayJob(_Document):
    """A job and its cluster."""

    kind: Literal["RayJob"]
    spec: JobSpec


class RayService(_Document):
    """A service and its cluster."""

    kind: Literal["RayService"]
    spec: ServiceSpec


DOCUMENTS: dict[str, type[RayCluster] | type[RayJob] | type[RayService]] = {
    "RayCluster": RayCluster,
    "RayJob": RayJob,
    "RayService": RayService,
}


def cluster_of(document: RayCluster | RayJob | RayService) -> tuple[str, ClusterSpec | None]:
    """Return where in a document its cluster is described, and the description."""
    match document:
        case RayCluster(spec=spec):
            return "spec", spec
        case RayJob(spec=job):
            return "spec.rayClusterSpec", job.ray_cluster_spec
        case RayService(spec=service):
            return "spec.rayClusterConfig", service.ray_cluster_config
