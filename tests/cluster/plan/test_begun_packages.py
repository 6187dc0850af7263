import pytest

from cluster.config import RunConfig
from cluster.dataset.manifest import Manifest, write_manifest
from cluster.dataset.run_folder import PACKAGES, Target
from cluster.errors import ConfigError
from cluster.plan.resume import begun_packages
from workers.settings import PackageLock


def config(**environment):
    return RunConfig.model_validate({"environment": {"id": "e", **environment}, "policy": {"kind": "oracle"}})


def begin(folder, planned=None):
    write_manifest(folder, Manifest(run_id="r", planned=planned))
    return Target(folder, "r")


def test_a_resumed_run_has_the_packages_that_it_began_with(tmp_path):
    lock = PackageLock(requirements="alpha==1.0\n", built={"gamma-1.0-py3-none-any.whl": b"PK\xff"})
    begin(tmp_path, planned=3).keep_packages(lock)
    begin(tmp_path, planned=3).keep_packages(PackageLock(requirements="alpha==2.0\n"))
    assert begun_packages(tmp_path, config(requirements=["alpha"])) == lock


def test_a_run_that_has_played_nothing_resolves_them_anew(tmp_path):
    assert begun_packages(tmp_path, config(requirements=["alpha"])) is None
    begin(tmp_path)
    assert begun_packages(tmp_path, config(requirements=["alpha"])) is None


def test_a_note_that_is_gone_or_damaged_is_named(tmp_path):
    begin(tmp_path, planned=3)
    for text in (None, "{}"):
        if text is not None:
            (tmp_path / PACKAGES).write_text(text)
        with pytest.raises(ConfigError, match=r"packages\.json says which packages the run began with"):
            begun_packages(tmp_path, config(requirements=["alpha"]))


def test_wheels_may_be_elsewhere_when_a_run_is_resumed(tmp_path):
    begin(tmp_path, planned=3).keep_packages(PackageLock(requirements="alpha==1.0\n"))
    lock = begun_packages(tmp_path, config(requirements=["alpha"], wheels=str(tmp_path)))
    assert lock is not None
    assert lock.wheels == tmp_path
