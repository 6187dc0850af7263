"""`ray_config.yaml` by Ray's own schema, config code and autoscaler, up to the first call to a cloud."""

import copy
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig

from cluster.config.file import load_config
from tests.helpers.autoscaling import INGRESS, REPLICA, WORKER, nodes_for

PROJECT = Path(__file__).resolve().parents[2]
MACHINES = {
    "m7i.2xlarge": {"CPU": 8},
    "m7i.4xlarge": {"CPU": 16, "memory": 44 * 2**30},
    "g6e.2xlarge": {"CPU": 8, "memory": 44 * 2**30, "GPU": 1, "accelerator_type:L40S": 1},
}
"""What Ray learns from the cloud about the machines that the file names."""


@pytest.fixture
def described() -> dict[str, Any]:
    return yaml.safe_load((PROJECT / "ray_config.yaml").read_text())


@pytest.fixture
def autoscaling(described: dict[str, Any]) -> AutoscalingConfig:
    """As the head's autoscaler has it, once the cloud has described the machines."""
    for node_type in described["available_node_types"].values():
        machine = MACHINES[node_type["node_config"]["InstanceType"]]
        node_type["resources"] = {**machine, **node_type["resources"]}
    return AutoscalingConfig(described)


def commands_of(autoscaling: AutoscalingConfig, node_type: str) -> list[str]:
    if node_type == autoscaling.get_head_node_type():
        return autoscaling.get_head_setup_commands()
    return autoscaling.get_worker_setup_commands(node_type)


def position(commands: list[str], part: str) -> int:
    (found,) = [index for index, command in enumerate(commands) if part in command]
    return found


def test_ray_accepts_the_file_as_it_is(described: dict[str, Any]) -> None:
    validate_config(prepare_config(copy.deepcopy(described)))


def test_schema_would_notice_a_misspelt_key(described: dict[str, Any]) -> None:
    described["max_worker"] = described.pop("max_workers")
    with pytest.raises(ValidationError, match="max_worker"):
        validate_config(prepare_config(described))


def test_three_places_are_marked_for_editing() -> None:
    text = (PROJECT / "ray_config.yaml").read_text()
    assert [line.split(":")[0].strip(" #") for line in text.splitlines() if "EDIT " in line] == [
        f"EDIT {number} of 3" for number in (1, 2, 3)
    ]


def test_nodes_with_sandboxes_have_docker_and_the_images_before_ray(autoscaling: AutoscalingConfig) -> None:
    resources = {name: kind.resources for name, kind in autoscaling.get_node_type_configs().items()}
    with_sandbox = [name for name, has in resources.items() if has.get("sandbox")]
    assert with_sandbox == ["sandbox"]
    for name in with_sandbox:
        commands = commands_of(autoscaling, name)
        install, engine, images = (
            position(commands, part) for part in ("setup.sh", "docker_engine.sh", "kumite images build")
        )
        assert install < engine < images
        assert "usermod -aG docker" in commands[position(commands, "usermod")]
    for start in (autoscaling.get_worker_start_ray_commands(), autoscaling.get_head_start_ray_commands()):
        assert start[-1].count('sg docker -c "ray start ') == 1


def test_sandbox_nodes_are_spot_and_others_are_not(described: dict[str, Any]) -> None:
    spot = {
        name: node_type["node_config"].get("InstanceMarketOptions", {}).get("MarketType")
        for name, node_type in described["available_node_types"].items()
    }
    assert spot == {"head": None, "sandbox": "spot", "gpu": None}


def test_every_node_installs_the_project_with_the_vllm_that_fits_it(autoscaling: AutoscalingConfig) -> None:
    for name, kind in autoscaling.get_node_type_configs().items():
        commands = commands_of(autoscaling, name)
        extra = "gpu" if kind.resources.get("GPU") else "cpu"
        assert f"KUMITE_EXTRA={extra} " in commands[position(commands, "setup.sh")]


def test_what_is_copied_is_there_and_is_all_that_setup_reads(described: dict[str, Any]) -> None:
    copied = {remote: local for remote, local in described["file_mounts"].items() if "kumite" in remote}
    for remote, local in copied.items():
        assert remote == f"~/kumite/{local}"
        assert (PROJECT / local).exists()
    build = {"pyproject.toml", "README.md", "scripts", "cluster", "workers", "sandbox_images"}
    assert build | {"constraints.txt", "constraints-gpu.txt"} == set(copied.values())


def test_workers_go_to_sandbox_nodes_and_replicas_to_gpus(autoscaling: AutoscalingConfig) -> None:
    slots = autoscaling.get_node_type_configs()["sandbox"].resources["sandbox"]
    assert nodes_for(autoscaling, []) == {}
    assert nodes_for(autoscaling, [WORKER] * int(slots)) == {"sandbox": 1}
    assert nodes_for(autoscaling, [WORKER] * (int(slots) + 1)) == {"sandbox": 2}
    assert nodes_for(autoscaling, [REPLICA] * 3) == {"gpu": 3}
    assert nodes_for(autoscaling, [INGRESS]) == {"sandbox": 1}


def test_head_takes_no_work(autoscaling: AutoscalingConfig) -> None:
    head = autoscaling.get_node_type_configs()["head"]
    assert head.resources["CPU"] == 0 and "sandbox" not in head.resources
    assert head.max_worker_nodes == 1


def test_cluster_shrinks_to_its_head_when_idle(autoscaling: AutoscalingConfig) -> None:
    kinds = autoscaling.get_node_type_configs()
    assert all(kind.min_worker_nodes == 0 for kind in kinds.values())
    assert autoscaling.get_idle_timeout_s() == 600
    workers = sum(kind.max_worker_nodes for name, kind in kinds.items() if name != "head")
    assert autoscaling.get_max_num_worker_nodes() == workers


def test_example_run_fits_the_cluster(autoscaling: AutoscalingConfig) -> None:
    run = load_config(PROJECT / "examples" / "cluster.yaml")
    assert run.policy.kind == "vllm" and run.policy.accelerator == "gpu"
    demands = [{"CPU": run.workers.cpus_per_worker, "sandbox": 1.0}] * run.workers.max
    demands += [REPLICA] * (run.policy.max_replicas or run.policy.replicas) + [INGRESS] * run.policy.replicas
    assert set(nodes_for(autoscaling, demands)) == {"sandbox", "gpu"}
    assert Path(run.output).is_absolute()


def test_quota_that_the_page_names_is_what_the_file_may_start(described: dict[str, Any]) -> None:
    cpus = {
        name: MACHINES[kind["node_config"]["InstanceType"]]["CPU"] * kind.get("max_workers", 1)
        for name, kind in described["available_node_types"].items()
    }
    page = " ".join((PROJECT / "docs" / "cluster.md").read_text().split())
    assert (
        f"{cpus['gpu']} vCPUs of On-Demand G instances, {cpus['sandbox']} of Standard Spot and "
        f"{cpus['head']} of Standard On-Demand"
    ) in page


def test_folder_for_new_weights_is_mounted_on_the_head_and_the_gpu_nodes() -> None:
    """As the file is once its comment signs are off those lines."""
    text = (PROJECT / "ray_config.yaml").read_text()
    before, start, rest = text.partition("    # - &SHARED >-\n")
    block = re.match(r"(?:    #   .*\n)+", rest)
    assert start and block
    uncommented = before + f"{start}{block[0]}".replace("# ", "", 1).replace("\n    # ", "\n    ")
    uncommented += rest[block.end() :].replace("# - *SHARED", "- *SHARED")
    described = yaml.safe_load(uncommented)
    validate_config(prepare_config(copy.deepcopy(described)))
    (mount,) = {command for command in described["metadata"]["commands"] if "mount -t nfs4" in command}
    subprocess.run(["bash", "-n", "-c", mount], check=True, timeout=10)
    assert described["head_setup_commands"][-1] == mount
    with_it = {
        name: mount in kind.get("worker_setup_commands", [])
        for name, kind in described["available_node_types"].items()
    }
    assert with_it == {"head": False, "sandbox": False, "gpu": True}


def test_every_command_is_bash(autoscaling: AutoscalingConfig) -> None:
    commands = [*autoscaling.get_head_start_ray_commands(), *autoscaling.get_worker_start_ray_commands()]
    for name in autoscaling.get_node_type_configs():
        commands += commands_of(autoscaling, name)
    for command in commands:
        subprocess.run(["bash", "-n", "-c", command], check=True, timeout=10)


@pytest.mark.parametrize("kind", ["head", "worker"])
def test_ray_starts_in_token_mode_with_the_docker_group(
    autoscaling: AutoscalingConfig, tmp_path: Path, kind: str
) -> None:
    for name, script in {
        "sg": '[ "$1 $2" = "docker -c" ] && exec sh -c "$3"',
        "ray": 'echo "$RAY_AUTH_MODE:$RAY_JOB_STOP_WAIT_TIME_S" "$@"',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    starts = {
        "head": autoscaling.get_head_start_ray_commands,
        "worker": autoscaling.get_worker_start_ray_commands,
    }
    done = subprocess.run(
        ["bash", "-c", starts[kind]()[-1]],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": "/home/ubuntu", "RAY_HEAD_IP": "10.0.0.1"},
        capture_output=True,
        text=True,
        timeout=10,
    )
    expected = {
        "head": "token:60 start --head --port=6379 --dashboard-host=127.0.0.1 "
        "--autoscaling-config=/home/ubuntu/ray_bootstrap_config.yaml\n",
        "worker": "token: start --address=10.0.0.1:6379\n",
    }
    assert (done.stdout, done.returncode) == (expected[kind], 0), done.stderr


def test_token_reaches_every_node(described: dict[str, Any]) -> None:
    assert described["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
