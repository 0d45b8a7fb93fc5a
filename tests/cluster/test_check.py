"""Cluster files: ours have no problem and one Ray version, and every planted mistake is named."""

import copy
import re
from pathlib import Path

import pytest
import ray
import yaml
from click.testing import CliRunner
from jsonschema import Draft7Validator

from raypixel.cli import main
from raypixel.cluster.check import check_file
from raypixel.cluster.problems import image_version
from raypixel.config import load_yaml
from raypixel.errors import ConfigError
from raypixel.train.ray_private import prepared_launcher_config

ROOT = Path(__file__).parents[2]
UNPINNED = ["cluster/local.yaml", "cluster/serve.yaml"]  # neither names an image
LAUNCHERS = ["cluster/ray-cluster.yaml", "cluster/local.yaml"]
FILES = {
    "cluster/ray-cluster.yaml": ["ray up"],
    "cluster/local.yaml": ["ray up"],
    "cluster/rayjob.yaml": ["RayJob"],
    "cluster/rayservice.yaml": ["RayService"],
    "cluster/serve.yaml": ["Ray Serve"],
}


@pytest.mark.parametrize("file", FILES)
def test_our_cluster_files_have_no_problem(file):
    assert check_file(ROOT / file) == FILES[file]


@pytest.mark.parametrize("file", LAUNCHERS)
def test_ray_itself_accepts_our_launcher_files_and_leaves_them_as_they_are(file):
    config = load_yaml(ROOT / file)
    before = copy.deepcopy(config)
    prepared = prepared_launcher_config(config)
    assert config == before
    assert prepared["head_node_type"] in prepared["available_node_types"]


def test_top_level_file_is_a_link_to_the_one_in_the_folder():
    assert (ROOT / "ray-cluster.yaml").is_symlink()
    assert (ROOT / "ray-cluster.yaml").resolve() == ROOT / "cluster" / "ray-cluster.yaml"


def test_ray_version_is_the_pin_everywhere():
    pin = re.search(r"(?m)^ray==(.+)$", (ROOT / "constraints.txt").read_text())[1]
    assert pin == ray.__version__
    for file in [*FILES, "cluster/Dockerfile"]:
        text = (ROOT / file).read_text()
        tags = re.findall(r"(?:rayproject/ray:|raypixel:ray|rayVersion: \")(\d+\.\d+\.\d+)", text)
        assert set(tags) == ({pin} if file not in UNPINNED else set())


def test_head_is_on_demand_without_gpu_and_workers_start_at_zero_spot_first():
    kinds = load_yaml(ROOT / "cluster/ray-cluster.yaml")["available_node_types"]
    is_spot = {name: "InstanceMarketOptions" in kind["node_config"] for name, kind in kinds.items()}
    assert is_spot == {"head": False, "gpu_spot": True, "gpu_on_demand": False}
    assert kinds["head"]["resources"] == {"CPU": 4, "GPU": 0, "raypixel_driver": 1}
    assert all(kind["min_workers"] == 0 for kind in kinds.values())
    assert kinds["gpu_spot"]["priority"] > kinds["gpu_on_demand"]["priority"]


def change(path: tuple, value):
    def apply(config):
        *parents, last = path
        for key in parents:
            config = config[key]
        if value is None:
            del config[last]
        else:
            config[last] = value

    return apply


WORKER = ("spec", "rayClusterSpec", "workerGroupSpecs", 0)
CASES = [
    (
        "ray-cluster",
        ("max_worker",),
        3,
        r"max_worker is not a known key, did you mean 'max_workers'",
    ),
    (
        "ray-cluster",
        ("available_node_types", "gpu_spot", "min_worker"),
        0,
        r"available_node_types.gpu_spot.min_worker is not a known key, did you mean 'min_workers'",
    ),
    (
        "ray-cluster",
        ("available_node_types", "gpu_spot", "resources", "GPU"),
        0.5,
        r"gpu_spot.resources.GPU must be of type integer, got 0.5",
    ),
    (
        "ray-cluster",
        ("available_node_types", "head", "node_config"),
        None,
        r"node_config must be given",
    ),
    ("ray-cluster", ("head_node_type",), "haed", r"head_node_type"),
    ("ray-cluster", ("available_node_types", "gpu_spot", "min_workers"), 9, r"max_workers"),
    ("ray-cluster", ("docker", "container_name"), None, r"container & image name"),
    (
        "ray-cluster",
        ("docker", "image"),
        "rayproject/ray:2.9.3-gpu",
        r"docker.image must be Ray .* got 2.9.3",
    ),
    (
        "ray-cluster",
        ("docker", "image"),
        "rayproject/ray:latest",
        r"docker.image must be Ray .*latest",
    ),
    ("ray-cluster", ("head_start_ray_commands",), None, r"dashboard on loopback"),
    ("ray-cluster", ("docker", "run_options"), [], r"RAY_AUTH_MODE=token"),
    (
        "rayjob",
        ("apiVersion",),
        "ray.io/v1beta9",
        r"apiVersion must be 'ray.io/v1', got 'ray.io/v1beta9'",
    ),
    ("rayjob", ("kind",), "RayJobb", r"kind must be one of .* did you mean 'RayJob'"),
    (
        "rayjob",
        ("spec", "entrypont"),
        "x",
        r"spec.entrypont is not a known key, did you mean 'entrypoint'",
    ),
    (
        "rayjob",
        (*WORKER, "maxReplica"),
        3,
        r"workerGroupSpecs.0.maxReplica is not a known key, did you mean 'maxReplicas'",
    ),
    ("rayjob", (*WORKER, "maxReplicas"), 1, r"minReplicas <= replicas <= maxReplicas, got 4, 4, 1"),
    ("rayjob", (*WORKER, "template", "spec", "containers"), [], r"must have a container"),
    (
        "rayjob",
        ("spec", "rayClusterSpec", "rayVersion"),
        "2.9.3",
        r"rayVersion must be Ray .* got 2.9.3",
    ),
    ("rayjob", ("spec", "rayClusterSpec", "authOptions", "mode"), "disabled", r"must be token"),
    (
        "rayjob",
        ("spec", "clusterSelector"),
        {"a": "b"},
        r"either rayClusterSpec or clusterSelector",
    ),
    ("rayjob", ("spec", "entrypointResources"), "{", r"entrypointResources: is not valid YAML"),
    ("rayservice", ("spec", "rayClusterConfg"), {}, r"did you mean 'rayClusterConfig'"),
    (
        "rayservice",
        ("spec", "serveConfigV2"),
        "applicatons: []",
        r"serveConfigV2: applicatons is not a known key, did you mean 'applications'",
    ),
    ("rayservice", ("spec", "serveConfigV2"), "applications: 3", r"serveConfigV2"),
]


@pytest.mark.parametrize(("file", "path", "value", "text"), CASES)
def test_a_planted_mistake_is_named(tmp_path, file, path, value, text):
    config = load_yaml(ROOT / "cluster" / f"{file}.yaml")
    change(path, value)(config)
    broken = tmp_path / "broken.yaml"
    broken.write_text(yaml.safe_dump(config))
    with pytest.raises(ConfigError, match=text):
        check_file(broken)


JOB = load_yaml(ROOT / "cluster/rayjob.yaml")["spec"]
VALID = [  # what KubeRay documents and our own files do not use
    (
        "rayservice",
        {
            "rayClusterDeletionDelaySeconds": 60,
            "suspend": False,
            "managedBy": "ray.io/kuberay-operator",
        },
    ),
    (
        "rayservice",
        {
            "upgradeStrategy": {
                "type": "NewClusterWithIncrementalUpgrade",
                "clusterUpgradeOptions": {
                    "stepSizePercent": 5,
                    "intervalSeconds": 10,
                    "gatewayClassName": "g",
                },
            }
        },
    ),
    (
        "rayjob",
        {
            "managedBy": "kueue.x-k8s.io/multikueue",
            "suspend": True,
            "preRunningDeadlineSeconds": 60,
        },
    ),
    (
        "rayjob",
        {
            "deletionStrategy": {
                "deletionRules": [
                    {
                        "policy": "DeleteWorkers",
                        "condition": {"jobStatus": "FAILED", "ttlSeconds": 9},
                    }
                ]
            }
        },
    ),
    ("rayjob", {"submissionMode": "InteractiveMode", "entrypoint": ""}),
]


@pytest.mark.parametrize(("file", "keys"), VALID)
def test_what_kuberay_documents_is_accepted(tmp_path, file, keys):
    config = load_yaml(ROOT / "cluster" / f"{file}.yaml")
    config["spec"] |= keys
    (tmp_path / "file.yaml").write_text(yaml.safe_dump(config))
    assert check_file(tmp_path / "file.yaml") == [config["kind"]]


def write_kind(folder: Path, kind: str, spec: dict) -> Path:
    document = {"apiVersion": "ray.io/v1", "kind": kind, "metadata": {"name": "x"}, "spec": spec}
    (folder / "kind.yaml").write_text(yaml.safe_dump(document))
    return folder / "kind.yaml"


def test_every_kind_of_kuberay_is_checked_down_to_its_cluster(tmp_path):
    cluster = {**JOB["rayClusterSpec"], "networkPolicy": {"mode": "DenyAll"}, "suspend": True}
    group = cluster["workerGroupSpecs"][0]
    cluster["workerGroupSpecs"] = [
        {k: group[k] for k in ("groupName", "template")} | {"priority": 1}
    ]
    assert check_file(write_kind(tmp_path, "RayCluster", cluster)) == ["RayCluster"]
    cron_job = {"schedule": "0 3 * * *", "suspend": False, "jobTemplate": JOB}
    assert check_file(write_kind(tmp_path, "RayCronJob", cron_job)) == ["RayCronJob"]
    broken = copy.deepcopy(cron_job)
    broken["jobTemplate"]["rayClusterSpec"]["headGroupSpec"]["labls"] = {}
    with pytest.raises(ConfigError, match=r"spec.jobTemplate.*headGroupSpec.labls .*'labels'"):
        check_file(write_kind(tmp_path, "RayCronJob", broken))
    broken = copy.deepcopy(cron_job)
    broken["jobTemplate"]["rayClusterSpec"]["rayVersion"] = "2.9.3"
    with pytest.raises(
        ConfigError, match=r"spec.jobTemplate.rayClusterSpec.rayVersion must be Ray"
    ):
        check_file(write_kind(tmp_path, "RayCronJob", broken))


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"backoffLimit": -1}, r"spec.backoffLimit must be at least 0, got -1"),
        ({"submissionMode": "HttpMode"}, r"must be one of K8sJobMode, .* did you mean 'HTTPMode'"),
        ({"suspend": "no"}, r"spec.suspend must be of type boolean, got 'no'"),
        ({"clusterSelector": {"a": 1}}, r"spec.clusterSelector.a must be of type string, got 1"),
        ({"entrypoint": ""}, r"spec.entrypoint must be given"),
    ],
)
def test_a_value_that_kuberay_refuses_is_named(tmp_path, keys, text):
    with pytest.raises(ConfigError, match=text):
        check_file(write_kind(tmp_path, "RayJob", JOB | keys))


def test_schema_of_kuberay_is_one_that_json_schema_knows():
    Draft7Validator.check_schema(load_yaml(ROOT / "raypixel/cluster/kuberay.yaml"))


def test_all_problems_of_all_files_come_at_once(tmp_path):
    config = load_yaml(ROOT / "cluster" / "ray-cluster.yaml")
    config |= {"max_worker": 3, "dockr": {}, "cluster_name": 7}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "b.yaml").write_text("hello: 1")
    good = str(ROOT / "cluster" / "rayjob.yaml")
    files = [str(tmp_path / "a.yaml"), good, str(tmp_path / "b.yaml"), str(tmp_path / "none.yaml")]
    result = CliRunner().invoke(main, ["cluster", "check", *files])
    assert result.exit_code == 1
    assert result.stdout == f"{good}: RayJob, no problem\n"
    for part in (
        "max_worker",
        "dockr",
        "cluster_name must be",
        "must be a `ray up` file",
        "cannot be read",
    ):
        assert part in result.stderr
    assert len(result.stderr.splitlines()) == 5


def test_documents_of_kubernetes_own_may_stand_beside_ours(tmp_path):
    secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: t}\n---\n"
    (tmp_path / "both.yaml").write_text(secret + (ROOT / "cluster/rayjob.yaml").read_text())
    assert check_file(tmp_path / "both.yaml") == ["Secret", "RayJob"]


@pytest.mark.parametrize(
    ("image", "version"),
    [
        ("rayproject/ray:2.60.0-py311-gpu", "2.60.0"),
        ("registry:5000/raypixel:ray2.60.0@sha256:00", "2.60.0"),
        ("rayproject/ray:latest", None),
        ("registry:5000/raypixel", None),
        ("", None),
    ],
)
def test_version_of_an_image_is_read_off_its_tag(image, version):
    assert image_version(image) == version
