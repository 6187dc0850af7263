import os
import sys
from pathlib import Path

import psutil
import pytest

import workers
from cluster.plan.apart import EnvironmentApart
from tests.helpers.sandboxes import eventually, is_alive
from workers.environments.classic.environment import ClassicEnvironment
from workers.errors import EnvironmentLoadError
from workers.lanes.interpreter import OwnPython
from workers.lanes.worker import LanedWorker
from workers.settings import EnvironmentSettings, PolicyEndpoint, SandboxSettings, WorkerSettings

pytestmark = pytest.mark.slow
CODE = """
import os

import verifiers as vf
from datasets import Dataset


def load_environment(tasks=3, ends=False):
    if ends:
        os._exit(3)
    rows = [{"question": f"{i}?", "answer": str(i), "info": {"task_id": f"t{i}"}} for i in range(tasks)]
    sampling = {"max_tokens": os.getpid()}
    rubric = vf.Rubric(funcs=[])
    return vf.SingleTurnEnv(eval_dataset=Dataset.from_list(rows), rubric=rubric, sampling_args=sampling)
"""


@pytest.fixture
def python():
    """This very Python, as if it were another."""
    return OwnPython(sys.executable, str(Path(workers.__file__).parent.parent))


def settings(tmp_path, **args):
    (tmp_path / "mine.py").write_text(CODE)
    return EnvironmentSettings(id=str(tmp_path / "mine.py"), args=args)


def test_tasks_and_traits_are_those_of_the_environment_in_another_process(tmp_path, python):
    asked = settings(tmp_path)
    apart, here = EnvironmentApart(asked, python), ClassicEnvironment(asked)
    rows, expected = apart.rows(), here.rows()
    assert [dict(rows[i]) for i in range(len(rows))] == [dict(expected[i]) for i in range(len(expected))]
    assert (apart.toolset, apart.needs_groups, apart.has_tools) == (None, False, False)
    assert apart.sampling_args["max_tokens"] not in (os.getpid(), None)


def test_a_split_that_it_lacks_and_arguments_that_it_does_not_take_are_named(tmp_path, python):
    with pytest.raises(EnvironmentLoadError, match=r"environment\.args: .* does not take them"):
        EnvironmentApart(settings(tmp_path, colour="red"), python)
    with pytest.raises(EnvironmentLoadError, match=r"environment\.split: got 'train'"):
        EnvironmentApart(settings(tmp_path), python).of_split("train").rows()


def test_a_process_that_ends_by_itself_is_said_to(tmp_path, python):
    with pytest.raises(EnvironmentLoadError, match="ended by itself"):
        EnvironmentApart(settings(tmp_path, ends=True), python)


async def test_its_process_goes_when_it_is_torn_down(tmp_path, python):
    apart = EnvironmentApart(settings(tmp_path), python)
    pid = apart.sampling_args["max_tokens"]
    await apart.tear_down()
    assert not os.path.exists(f"/proc/{pid}")  # noqa: ASYNC240


async def test_workers_have_theirs_forked_from_it_before_it_has_loaded_anything(tmp_path, python):
    asked = settings(tmp_path)
    apart = EnvironmentApart(asked, python, forks=True)
    worker = LanedWorker(
        WorkerSettings(
            run_id="r",
            environment=asked,
            sandbox=SandboxSettings(),
            policy=PolicyEndpoint(kind="oracle", model="oracle"),
            fork_server=apart.fork_server,
        ),
        "w",
        python,
    )
    try:
        worker.ready()
        [lane] = worker._lanes.pids
        loader, server, planner = psutil.Process(lane).parents()[:3]
        assert (server.name(), planner.pid) == ("kumite-forks", apart.sampling_args["max_tokens"])
    finally:
        worker.stop()
    await apart.tear_down()
    await eventually(lambda: not is_alive(loader.pid) and not is_alive(server.pid))
    assert EnvironmentApart(asked, python).fork_server is None
