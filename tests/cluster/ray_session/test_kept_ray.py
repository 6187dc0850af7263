"""The bookkeeping of what is kept, without Ray."""

import time
from pathlib import Path

import pytest

from cluster.errors import PolicyInUse, UpdateRefused
from cluster.policy.vllm import kept_policy, kept_record
from cluster.ray_session import kept as kept_ray


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KUMITE_CACHE", str(tmp_path))
    return tmp_path


def policy(local: bool, shared: bool = True) -> kept_record.KeptPolicy:
    return kept_record.KeptPolicy(
        application="kumite-m-1",
        model="m",
        base_url="http://127.0.0.1:9/v1",
        versions=Path("/nowhere"),
        shared=shared,
        ray_address="127.0.0.1:10",
        local=local,
        started_at=time.time(),
    )


def test_nothing_is_kept_at_first():
    assert kept_ray.find_kept() is None
    assert kept_policy.read_policy_status() is None
    assert not kept_ray.has_leases()
    assert not kept_policy.stop_kept_policy()


def test_a_kept_policy_on_other_machines_takes_weights_from_a_shared_folder_alone(tmp_path: Path):
    kept_record.write_kept_policy(policy(local=False, shared=False))
    with pytest.raises(
        UpdateRefused, match=r"policy\.versions_folder is not set: replicas on other nodes cannot"
    ):
        kept_policy.update_kept_policy(tmp_path / "weights", 1)
    kept_record.write_kept_policy(policy(local=False))
    with pytest.raises(UpdateRefused, match="there is no such folder"):
        kept_policy.update_kept_policy(tmp_path / "weights", 1)


def test_a_lease_is_seen_by_others_until_it_is_released():
    mine = kept_ray.Lease()
    assert kept_ray.has_leases()
    assert mine.is_only_one()
    other = kept_ray.Lease()
    assert not mine.is_only_one()
    other.release()
    other.release()
    assert mine.is_only_one()
    mine.release()
    assert not kept_ray.has_leases()


def test_a_policy_in_use_is_not_ended_unless_forced():
    lease = kept_ray.Lease()
    with pytest.raises(PolicyInUse, match="--force"):
        kept_policy.stop_kept_policy()
    assert not kept_policy.stop_kept_policy(force=True)
    lease.release()


def test_the_record_of_a_policy_whose_cluster_is_gone_counts_for_nothing():
    kept_record.write_kept_policy(policy(local=True))
    assert kept_record.read_kept_policy() is None
    kept_record.write_kept_policy(policy(local=False))
    status = kept_policy.read_policy_status()
    assert status is not None
    assert (status.state, status.policy.application) == ("not answering", "kumite-m-1")


@pytest.mark.ray
def test_a_cluster_to_keep_that_does_not_start_says_why_and_leaves_nothing():
    with pytest.raises(kept_ray.RayUnavailable, match=r"did not come up: .*no_such_option"):
        kept_ray.start_kept({"no_such_option": 1}, timeout=60)
    assert kept_ray.find_kept() is None
