"""Which module is a taskset, and what is refused, in words that name the key."""

import json
import sys
from pathlib import Path

import pytest

import workers
from sandbox_images import build
from workers.environments.classic.environment import ClassicEnvironment
from workers.environments.opening import open_environment
from workers.environments.v1.environment import V1Environment
from workers.errors import EnvironmentLoadError
from workers.settings import EnvironmentSettings

pytestmark = pytest.mark.slow
TASKSET = """
import itertools

import verifiers.v1 as vf


class OwnConfig(vf.TasksetConfig):
    numbers: int = 3


class OwnTask(vf.Task[vf.TaskData]):
    pass


class Own(vf.Taskset[OwnTask, OwnConfig]):
    def load(self):
        for i in range(self.config.numbers):
            yield OwnTask(vf.TaskData(idx=i, prompt=f"{i}?"), self.config.task)


class Endless(Own):
    INFINITE = True

    def load(self):
        for i in itertools.count():
            yield OwnTask(vf.TaskData(idx=i, prompt=f"{i}?"), self.config.task)


class Boxed(vf.Task[vf.TaskData]):
    NEEDS_CONTAINER = True


class InABox(vf.Taskset[Boxed]):
    def load(self):
        return []


class GradedTask(vf.Task[vf.TaskData]):
    @vf.reward
    async def tidy(self, runtime: vf.Runtime) -> float:
        return float((await runtime.run(["ls"], {})).stdout == "")


class Graded(vf.Taskset[GradedTask]):
    def load(self):
        return []


class Tool(vf.Toolset):
    pass


class Code(vf.Toolset):
    runs_model_code = True


def handy(toolset, **config):
    class Handy(vf.Task[vf.TaskData]):
        @classmethod
        def toolsets(cls, _):
            return [toolset(vf.ToolsetConfig(**config))]

    class WithTools(vf.Taskset[Handy]):
        def load(self):
            return []

    return WithTools


WithTools = handy(Tool, colocated=True)
WithBoxedTools = handy(Tool, runtime={"type": "docker"})
WithBoxedCode = handy(Code, runtime={"type": "docker", "image": "mine:1"})
WithRestrictedTools = handy(Tool, runtime={"type": "docker", "block": ["*"]})
WithCode = handy(Code)


def no_tools(config):
    raise KeyError("no tools today")


NoTools = handy(no_tools)


class Broken(Own):
    def load(self):
        raise OSError("the data is away")


__all__ = ["{exported}"]
"""


def write(folder, name, exported="Own", more=""):
    (folder / f"{name}.py").write_text(TASKSET.replace("{exported}", exported) + more)
    return str(folder / f"{name}.py")


def opened(path, **args):
    return open_environment(EnvironmentSettings(id=path, args=args))


def test_a_module_is_recognised_by_what_it_exports(tmp_path):
    environment = opened(write(tmp_path, "own_one"))
    assert isinstance(environment, V1Environment)
    (tmp_path / "classic.py").write_text(
        "import verifiers as vf\nfrom datasets import Dataset\n"
        "def load_environment():\n"
        "    rows = Dataset.from_list([{'question': '?', 'answer': '!'}])\n"
        "    return vf.SingleTurnEnv(eval_dataset=rows, rubric=vf.Rubric(funcs=[]))\n"
    )
    assert isinstance(opened(str(tmp_path / "classic.py")), ClassicEnvironment)


def test_the_tasksets_own_arguments_are_taken_and_tasks_are_the_same_each_time(tmp_path):
    path = write(tmp_path, "own_two")
    once, again = (opened(path, taskset={"numbers": 2}).rows() for _ in range(2))
    assert once == again
    assert [json.loads(row["info"])["task_id"] for row in once] == ["0", "1"]
    assert once[1]["prompt"] == [{"role": "user", "content": "1?"}]


def test_the_example_has_its_tasks():
    example = Path(workers.__file__).parents[1] / "examples" / "word_sums.py"
    rows = opened(str(example), taskset={"largest": 1}).rows()
    assert len(rows) == 4
    assert rows[3]["prompt"][0]["content"].startswith("What is one plus one?")


def test_a_module_of_a_package_is_found_whatever_its_name(tmp_path, monkeypatch):
    (tmp_path / "Deep").mkdir()
    (tmp_path / "Deep" / "__init__.py").write_text("")
    write(tmp_path / "Deep", "Tasks")
    monkeypatch.syspath_prepend(tmp_path)
    assert len(opened("Deep.Tasks", taskset={"id": "Deep.Tasks"}).rows()) == 3
    assert "kumite_taskset_deep_tasks" in sys.modules


def test_an_infinite_taskset_needs_a_bound(tmp_path):
    path = write(tmp_path, "endless", "Endless")
    with pytest.raises(EnvironmentLoadError, match=r"environment\.args\.num_tasks: .* without end"):
        opened(path).rows()
    with pytest.raises(EnvironmentLoadError, match=r"environment\.args\.num_tasks: got 0; give a number"):
        opened(path, num_tasks=0).rows()
    assert len(opened(path, num_tasks=4).rows()) == 4


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"taskset": {"numbers": "many"}}, r"environment\.args\.taskset\.numbers"),
        ({"taskset": {"colour": "red"}}, r"environment\.args\.taskset\.colour"),
        ({"taskset": 3}, r"environment\.args\.taskset: got 3; give an object"),
        ({"taskset": {"id": "other-v1"}}, r"environment\.args\.taskset\.id: got 'other-v1'"),
        ({"agent": {"harness": 3}}, r"environment\.args\.agent\.harness: got 3; give an object"),
        ({"agent": {"client": {"type": "eval"}}}, r"args\.agent\.client: .* belongs under `policies`"),
        (
            {"agent": {"client": "judge", "model": "customer"}},
            r"args\.agent\.client: got 'judge', and environment\.args\.agent\.model is 'customer'; each",
        ),
        ({"id": "agentic-judge"}, r"environment\.args: .* requires a judge harness that can execute code"),
        ({"id": "best-of-n", "n": 0}, r"environment\.args\.n: .* greater than or equal to 1"),
        ({"id": "no-such-env"}, r"environment 'no-such-env' not found"),
        (
            {"agent": {"runtime": "docker"}},
            r"environment\.args\.agent\.runtime: got 'docker'; give an object",
        ),
        ({"agent": {"runtime": {"type": "vm"}}}, r"environment\.args\.agent\.runtime\.type: got 'vm'"),
    ],
)
def test_arguments_that_are_wrong_or_not_played_yet_are_named(tmp_path, args, said):
    with pytest.raises(EnvironmentLoadError, match=said):
        opened(write(tmp_path, "own_three"), **args)


@pytest.mark.parametrize("key", ["model", "client"])
def test_a_seats_model_or_client_names_its_policy(tmp_path, key):
    made = opened(write(tmp_path, f"own_by_{key}"), agent={key: "customer"})
    assert made.seat_policies == {"agent.model": "customer"}


@pytest.mark.parametrize(
    ("exported", "harness", "said"),
    [
        ("WithTools", "null", r"its toolset 'tool' is `colocated` .* set `colocated: false`"),
        ("WithRestrictedTools", "null", r"its toolset 'tool' has `allow` or `block` .* sandbox\.allow names"),
        (
            "WithCode",
            "null",
            r"its toolset 'code' runs what the policy wrote .* set `runtime: ",
        ),
        (
            "WithCode",
            "bash",
            r"its toolset 'code' runs what the policy .* set `colocated: true` or `runtime",
        ),
        ("WithTools", "mini_swe_agent", r"Harness 'mini_swe_agent' does not support MCP tools"),
    ],
)
def test_toolsets_that_cannot_be_served_are_refused(tmp_path, exported, harness, said):
    path = write(tmp_path, f"own_{exported.lower()}_{harness}", exported)
    with pytest.raises(EnvironmentLoadError, match=said):
        opened(path, agent={"harness": {"id": harness}})


def test_a_program_may_have_a_toolset_beside_it(tmp_path):
    path = write(tmp_path, "own_beside", "WithTools")
    assert opened(path, agent={"harness": {"id": "bash"}}).has_tools


@pytest.mark.parametrize("exported", ["WithBoxedTools", "WithBoxedCode"])
def test_a_chat_may_have_a_toolset_in_a_container_for_which_episodes_get_sandboxes(tmp_path, exported):
    toolset = opened(write(tmp_path, f"own_{exported.lower()}", exported)).toolset
    assert toolset is not None and toolset.image == "harness"


def test_seats_that_need_several_images_have_the_one_of_all(tmp_path):
    seats = {"solver": {"harness": {"id": "mini_swe_agent"}}, "judge": {"harness": {"id": "bash"}}}
    toolset = opened(write(tmp_path, "own_judged"), id="agentic-judge", **seats).toolset
    assert toolset is not None
    assert toolset.image == "harness-all"
    assert build.programs_digest("harness-all") not in {None, build.programs_digest("harness")}


def test_toolsets_that_raise_are_named(tmp_path):
    path = write(tmp_path, "own_toolless", "NoTools")
    with pytest.raises(
        EnvironmentLoadError, match=r"toolsets of .* cannot be made: KeyError: 'no tools today'"
    ):
        opened(path)


def test_code_that_raises_is_named(tmp_path):
    with pytest.raises(EnvironmentLoadError, match=r"tasks of .* cannot be made: OSError: the data is away"):
        opened(write(tmp_path, "own_broken", "Broken")).rows()


def test_a_module_that_is_both_or_neither_is_refused(tmp_path):
    both = write(tmp_path, "own_both", more="\n\ndef load_environment():\n    return None\n")
    with pytest.raises(EnvironmentLoadError, match=r"has both a `load_environment` .* and the taskset Own"):
        opened(both)
    (tmp_path / "neither.py").write_text("")
    with pytest.raises(EnvironmentLoadError, match=r"has no `load_environment` .* and no taskset"):
        opened(str(tmp_path / "neither.py"))


@pytest.mark.parametrize("kind", ["prime", "modal"])
def test_a_runtime_that_is_not_ours_is_said_with_what_takes_its_place(tmp_path, caplog, kind):
    given = {"type": kind, "image": "debian:12", "region": "eu"}
    environment = opened(write(tmp_path, f"own_{kind}"), agent={"runtime": given})
    assert f"environment.args.agent.runtime: got type `{kind}`" in caplog.text
    assert "runs in a container of this machine, without a network" in caplog.text
    assert "region can't hold for one and is not used" in caplog.text
    assert isinstance(environment, V1Environment)
    runtime = environment._env.config.agent.runtime
    assert (runtime.type, runtime.image) == ("docker", "debian:12")


@pytest.mark.parametrize(
    ("exported", "harness", "image"),
    [
        ("Own", None, None),
        ("InABox", None, "harness"),
        ("Graded", None, "harness"),
        ("Own", "bash", "harness"),
        ("Own", "mini_swe_agent", "harness-mini-swe-agent"),
    ],
)
def test_containers_are_had_by_programs_and_by_tasks_that_use_the_runtime(tmp_path, exported, harness, image):
    args = {"agent": {"harness": {"id": harness}}} if harness else {}
    toolset = opened(write(tmp_path, f"own_{exported.lower()}_{harness}", exported), **args).toolset
    assert (None if toolset is None else toolset.image) == image
