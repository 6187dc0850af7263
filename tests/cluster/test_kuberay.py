"""`deploy/kuberay.yaml` as Ray's autoscaler reads it, and by the fields of KubeRay's RayCluster."""

import re
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from docker.utils.build import exclude_paths
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig

from tests.helpers.autoscaling import INGRESS, REPLICA, WORKER, nodes_for

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
SPEC = {
    *("rayVersion", "authOptions", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec"),
    *("workerGroupSpecs", "suspend", "managedBy", "gcsFaultToleranceOptions", "headServiceAnnotations"),
}
HEAD_GROUP = {
    "rayStartParams",
    "template",
    "serviceType",
    "headService",
    "enableIngress",
    "resources",
    "labels",
}
WORKER_GROUP = {
    *("groupName", "replicas", "minReplicas", "maxReplicas", "numOfHosts", "rayStartParams", "template"),
    *("scaleStrategy", "idleTimeoutSeconds", "suspend", "resources", "labels"),
}
AUTOSCALER = {
    *("resources", "image", "imagePullPolicy", "securityContext", "idleTimeoutSeconds", "upscalingMode"),
    *("version", "env", "envFrom", "volumeMounts"),
}
"""Fields that the operator knows, from 1.5 on; it turns down no unknown ones, it forgets them."""


@pytest.fixture
def cluster() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "kuberay.yaml").read_text())


@pytest.fixture
def autoscaling(cluster: dict[str, Any]) -> AutoscalingConfig:
    cluster["metadata"]["namespace"] = "default"
    return AutoscalingConfig(_derive_autoscaling_config_from_ray_cr(cluster))


def groups(cluster: dict[str, Any]) -> dict[str, dict[str, Any]]:
    spec = cluster["spec"]
    return {"head": spec["headGroupSpec"]} | {group["groupName"]: group for group in spec["workerGroupSpecs"]}


def pods(cluster: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: group["template"]["spec"] for name, group in groups(cluster).items()}


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod.get("initContainers", []), *pod["containers"]]


def engine(pod: dict[str, Any]) -> dict[str, Any] | None:
    return next((each for each in containers(pod) if each["name"] == "docker"), None)


def test_fields_are_those_of_a_raycluster(cluster: dict[str, Any]) -> None:
    assert (cluster["apiVersion"], cluster["kind"]) == ("ray.io/v1", "RayCluster")
    spec = cluster["spec"]
    assert set(spec) <= SPEC
    assert set(spec["autoscalerOptions"]) <= AUTOSCALER
    assert set(spec["headGroupSpec"]) <= HEAD_GROUP
    for group in spec["workerGroupSpecs"]:
        assert set(group) <= WORKER_GROUP
    for group in groups(cluster).values():
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())


def test_ray_version_is_the_one_we_run(cluster: dict[str, Any]) -> None:
    assert cluster["spec"]["rayVersion"] == ray.__version__


def test_cluster_grows_by_demand_and_asks_for_a_token(cluster: dict[str, Any]) -> None:
    assert cluster["spec"]["enableInTreeAutoscaling"] is True
    assert cluster["spec"]["authOptions"] == {"mode": "token"}


def test_workers_go_to_sandbox_pods_and_replicas_to_gpus(autoscaling: AutoscalingConfig) -> None:
    assert nodes_for(autoscaling, []) == {}
    assert nodes_for(autoscaling, [WORKER] * 9) == {"sandbox": 2}
    assert nodes_for(autoscaling, [REPLICA] * 2) == {"gpu": 2}
    assert nodes_for(autoscaling, [INGRESS]) == {"sandbox": 1}
    assert autoscaling.get_node_type_configs()["headgroup"].resources["CPU"] == 0


def test_pod_with_sandboxes_has_an_engine_and_its_image_before_ray(
    cluster: dict[str, Any], autoscaling: AutoscalingConfig
) -> None:
    resources = {name: kind.resources for name, kind in autoscaling.get_node_type_configs().items()}
    assert [name for name, has in resources.items() if has.get("sandbox")] == ["sandbox"]
    pod = pods(cluster)["sandbox"]
    sidecar, pull = pod["initContainers"]
    assert sidecar["name"] == "docker" and sidecar["restartPolicy"] == "Always"
    (host,) = [word for word in sidecar["args"] if word.startswith("--host=")]
    assert host in sidecar["startupProbe"]["exec"]["command"] and host in pull["command"]
    socket = host.removeprefix("--host=")
    assert {"name": "DOCKER_HOST", "value": socket} in pod["containers"][0]["env"]
    folder = str(Path(socket.removeprefix("unix://")).parent)
    for each in (sidecar, pull, pod["containers"][0]):
        assert {"name": "engine-socket", "mountPath": folder} in each["volumeMounts"]


def test_engine_listens_on_no_port_and_gives_its_containers_no_network(cluster: dict[str, Any]) -> None:
    for pod in pods(cluster).values():
        sidecar = engine(pod)
        if sidecar is not None:
            assert [word for word in sidecar["args"] if "tcp" in word] == []
            assert {"--bridge=none", "--iptables=false"} < set(sidecar["args"])


def test_nothing_but_the_engine_is_privileged_and_nothing_is_mounted_from_the_node(
    cluster: dict[str, Any],
) -> None:
    for name, pod in pods(cluster).items():
        privileged = [
            each["name"] for each in containers(pod) if each.get("securityContext", {}).get("privileged")
        ]
        assert privileged == (["docker"] if name == "sandbox" else [])
        assert not [volume for volume in pod["volumes"] if "hostPath" in volume]
        assert not pod.get("hostNetwork") and not pod.get("hostPID")
        if name != "head":
            assert pod["automountServiceAccountToken"] is False


def test_every_mount_has_its_volume(cluster: dict[str, Any]) -> None:
    for pod in pods(cluster).values():
        volumes = {volume["name"] for volume in pod["volumes"]}
        assert {mount["name"] for each in containers(pod) for mount in each["volumeMounts"]} == volumes


def test_every_pod_may_pull_from_a_registry_that_asks_for_a_login(cluster: dict[str, Any]) -> None:
    for name, pod in pods(cluster).items():
        assert pod["imagePullSecrets"] == [{"name": "kumite-registry"}]
        logins = [volume["secret"] for volume in pod["volumes"] if volume["name"] == "registry"]
        if name != "sandbox":
            assert logins == []
            continue
        (login,) = logins
        assert login["secretName"] == "kumite-registry" and login["optional"]
        (file,) = login["items"]
        assert file == {"key": ".dockerconfigjson", "path": "config.json"}
        _, pull = pod["initContainers"]
        for puller in (pull, pod["containers"][0]):
            (mount,) = [mount for mount in puller["volumeMounts"] if mount["name"] == "registry"]
            assert {"name": "DOCKER_CONFIG", "value": mount["mountPath"]} in puller["env"]


def test_folder_for_new_weights_is_on_the_head_and_the_gpu_pods() -> None:
    """As the files are once their comment signs are off those lines."""
    uncommented = (DEPLOY / "kuberay.yaml").read_text().replace("# - {name: shared", "- {name: shared")
    described = pods(yaml.safe_load(uncommented))
    text = (DEPLOY / "kuberay_volume.yaml").read_text()
    before, start, claim = text.partition("# ---\n")
    assert start
    _, shared = yaml.safe_load_all(before + re.sub("^# ", "", start + claim, flags=re.MULTILINE))
    assert shared["spec"]["accessModes"] == ["ReadWriteMany"]
    assert shared["spec"].keys() == yaml.safe_load(before)["spec"].keys()
    for name, pod in described.items():
        mounted = {"name": "shared", "mountPath": "/shared"} in pod["containers"][0]["volumeMounts"]
        claims = [volume["persistentVolumeClaim"] for volume in pod["volumes"] if volume["name"] == "shared"]
        assert claims == ([{"claimName": shared["metadata"]["name"]}] if name != "sandbox" else [])
        assert mounted == bool(claims)


def test_build_of_the_image_is_sent_what_it_copies_and_nothing_else() -> None:
    project = DEPLOY.parent
    ignored = (project / ".dockerignore").read_text().split()
    sent = exclude_paths(str(project), ignored, "deploy/Dockerfile")
    copied = re.findall(r"^COPY (.+) \S+$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    wanted = {source for line in copied for source in line.split()}
    files = {path for path in sent if (project / path).is_file()}
    assert {Path(path).parts[0] for path in files} == wanted | {"deploy", ".dockerignore"}
    assert not [path for path in files if "__pycache__" in path]


def test_engine_has_memory_for_the_sandboxes_it_may_hold(
    cluster: dict[str, Any], autoscaling: AutoscalingConfig
) -> None:
    sidecar = engine(pods(cluster)["sandbox"])
    assert sidecar is not None
    workers = autoscaling.get_node_type_configs()["sandbox"].resources["sandbox"]
    assert int(sidecar["resources"]["limits"]["memory"].removesuffix("Gi")) >= 2 * workers


def test_runs_are_on_a_volume_that_outlives_the_cluster(cluster: dict[str, Any]) -> None:
    claim = yaml.safe_load((DEPLOY / "kuberay_volume.yaml").read_text())
    head = pods(cluster)["head"]
    (volume,) = [volume for volume in head["volumes"] if volume["name"] == "runs"]
    assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert {"name": "runs", "mountPath": "/runs"} in head["containers"][0]["volumeMounts"]
