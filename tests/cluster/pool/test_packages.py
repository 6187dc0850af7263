import subprocess
import sys

import pytest

from cluster.errors import ConfigError, RunError
from cluster.pool import packages, pythons
from cluster.pool.packages import lock_packages
from cluster.pool.pythons import ensure_python
from tests.helpers.small_wheels import make_package_folder, make_wheel
from workers.settings import EnvironmentSettings

pytestmark = pytest.mark.slow


@pytest.fixture
def wheels(tmp_path, monkeypatch):
    """A folder of wheels, where workers need `alpha` only."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for version in ("1.0", "2.0"):
        make_wheel(folder, "alpha", version, {"alpha.py": f"VERSION = {version!r}\n"})
    make_wheel(folder, "beta", "1.0", {"beta.py": ""}, needs=("alpha<2",))
    monkeypatch.setattr(packages, "WORKER_REQUIREMENTS", ("alpha",))
    monkeypatch.setenv("KUMITE_CACHE", str(tmp_path / "cache"))
    return folder


def asked(requirements, wheels=None):
    return EnvironmentSettings(id="e", requirements=requirements, wheels=wheels)


def said_by(python, code):
    command = [python.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_an_environment_without_requirements_has_no_packages_of_its_own():
    assert lock_packages(EnvironmentSettings(id="e")) is None


def test_requirements_and_what_workers_need_are_resolved_together(wheels):
    lock = lock_packages(asked(["beta"], wheels))
    assert lock is not None
    assert [line.split()[0] for line in lock.requirements.splitlines() if "==" in line] == [
        "alpha==1.0",
        "beta==1.0",
    ]
    assert "--hash=sha256:" in lock.requirements


def test_the_project_in_which_kumite_is_started_overrides_nothing(wheels, tmp_path, monkeypatch):
    (tmp_path / "pyproject.toml").write_text('[tool.uv]\noverride-dependencies = ["alpha==1.0"]\n')
    monkeypatch.chdir(tmp_path)
    lock = lock_packages(asked(["alpha==2.0"], wheels))
    assert lock is not None
    assert "alpha==2.0" in lock.requirements


def test_a_conflict_is_said_in_the_resolvers_own_words(wheels):
    with pytest.raises(ConfigError, match=r"environment\.requirements: they do not resolve") as raised:
        lock_packages(asked(["beta", "alpha==2.0"], wheels))
    said = " ".join(str(raised.value).split())  # uv breaks its lines where the paths end
    assert "your requirements are unsatisfiable" in said


def test_a_package_for_a_python_that_is_not_there_is_said_in_the_resolvers_own_words(wheels):
    make_wheel(wheels, "delta", "1.0", {"delta.py": ""}, python=">=3.99")
    with pytest.raises(ConfigError, match=r"environment\.requirements: they do not resolve") as raised:
        lock_packages(asked(["delta"], wheels))
    assert "Python>=3.99" in "".join(str(raised.value).split())


def test_a_requirements_file_is_read(wheels, tmp_path):
    file = tmp_path / "requirements.txt"
    file.write_text("# ours\nalpha==2.0\n")
    lock = lock_packages(asked(str(file), wheels))
    assert lock is not None
    assert "alpha==2.0" in lock.requirements


@pytest.mark.parametrize("entry", ["/nowhere/requirements.txt", ["/nowhere/package"]])
def test_a_path_that_is_not_there_is_named(wheels, entry):
    with pytest.raises(ConfigError, match=r"environment\.requirements: there is no /nowhere"):
        lock_packages(asked(entry, wheels))


def test_a_folder_that_is_no_package_is_named(wheels, tmp_path):
    with pytest.raises(ConfigError, match=r"has no pyproject\.toml"):
        lock_packages(asked([str(tmp_path)], wheels))


def test_a_wheel_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"environment\.wheels: there is no folder"):
        lock_packages(asked(["alpha"], tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"environment\.wheels: .* no environment\.requirements"):
        lock_packages(asked(None, tmp_path))


def test_packages_are_installed_once_and_apart_from_kumites(wheels, tmp_path):
    lock = lock_packages(asked(["beta"], wheels))
    assert lock is not None
    told: list[str] = []
    python = ensure_python(lock, told.append)
    assert said_by(python, "import alpha, beta; print(alpha.VERSION)") == "1.0"
    assert said_by(python, "import importlib.util; print(importlib.util.find_spec('ray'))") == "None"
    code = f"import sys; sys.path.insert(0, {python.code!r}); import workers.lanes.wire, sandbox_images"
    assert said_by(python, f"{code}; print('ours')") == "ours"
    assert ensure_python(lock, told.append) == python
    assert len(told) == 1


@pytest.mark.parametrize("is_left_out", [True, False])
def test_packages_are_compiled_where_the_processes_that_import_them_will_not(
    wheels, monkeypatch, is_left_out
):
    monkeypatch.setattr(sys, "dont_write_bytecode", is_left_out)
    lock = lock_packages(asked(["alpha==2.0"], wheels))
    assert lock is not None
    ensure_python(lock)
    compiled = list(pythons.cache_dir().glob("pythons/*/lib/*/site-packages/__pycache__/alpha.*.pyc"))
    assert bool(compiled) == is_left_out


def test_an_installation_that_was_broken_off_is_made_anew(wheels, monkeypatch):
    lock = lock_packages(asked(["alpha==2.0"], wheels))
    assert lock is not None
    python = ensure_python(lock)
    ready = next(pythons.cache_dir().glob("pythons/*/kumite-ready"))
    ready.unlink()
    (ready.parent / "bin" / "python").unlink()
    assert ensure_python(lock) == python
    assert said_by(python, "import alpha; print(alpha.VERSION)") == "2.0"


def test_a_folder_is_a_package_and_what_is_in_it_counts(wheels, tmp_path):
    folder = tmp_path / "gamma"
    values: list[str] = []
    for value in (1, 2):
        lock = lock_packages(asked([str(make_package_folder(folder, value))], wheels))
        assert lock is not None
        assert str(tmp_path) not in lock.requirements  # other nodes have another folder, or none
        values.append(said_by(ensure_python(lock), "import gamma; print(gamma.VALUE)"))
    assert values == ["1", "2"]


def test_what_cannot_be_installed_on_a_node_is_said_in_uvs_words(wheels):
    lock = lock_packages(asked(["alpha==2.0"], wheels))
    assert lock is not None
    for wheel in wheels.glob("alpha-2*"):
        wheel.unlink()
    with pytest.raises(RunError, match=r"environment\.requirements: uv pip install failed") as raised:
        ensure_python(lock)
    assert "alpha==2.0" in str(raised.value)
