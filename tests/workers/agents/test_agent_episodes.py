"""Agents with a loop of their own: graded like any other policy, and whatever they do comes to an end."""

import json
from typing import Any

import pytest

from tests.helpers.mock_policy import Fault, MockPolicy, Reply
from tests.helpers.rollouts import played, record, rollout_worker, rows, spec
from tests.helpers.sandboxes import is_alive
from workers.environments.shell.environment import load_environment
from workers.errors import EnvironmentLoadError
from workers.records import EpisodeRecord, EpisodeResult
from workers.settings import PolicyEndpoint

ON_THIS_MACHINE = {"recycle": "fork", "unsafe": True}
TASK = "find-effective-port"

ASK = """
import json, os, sys, urllib.request, urllib.error
def ask(messages, path="/v1/chat/completions", **more):
    body = json.dumps({"model": os.environ["KUMITE_MODEL"], "messages": messages, **more}).encode()
    request = urllib.request.Request(os.environ["ANTHROPIC_BASE_URL"] + path, body)
    request.add_header("Authorization", "Bearer " + os.environ["OPENAI_API_KEY"])
    try:
        return json.load(urllib.request.urlopen(request))["choices"][0]["message"]
    except urllib.error.HTTPError as error:
        return json.load(error)
def user(text):
    return {"role": "user", "content": text}
"""
"""The beginning of an agent that needs no package."""


def agent(program: str, **more: Any) -> dict[str, Any]:
    return {"command": ["python3", "-c", ASK + program, "{instruction_file}", "{answer_file}"], **more}


def play(
    policy: MockPolicy, agent: dict[str, Any], task: str = TASK, **endpoint: Any
) -> tuple[EpisodeResult, EpisodeRecord]:
    """One episode of a task, on this machine."""
    settings = PolicyEndpoint(
        kind="openai", model="mock", base_url=policy.base_url, token_ids=True, **endpoint
    )
    args = {"tasks": [task], "agent": agent}
    with rollout_worker("shell", args=args, policy=settings, sandbox=ON_THIS_MACHINE) as worker:
        (result,) = played(worker, spec(rows(worker)[0]))
    return result, record(result)


@pytest.mark.slow
def test_an_agents_answer_is_graded_and_every_call_is_a_step() -> None:
    program = """
said = ask([user(open(sys.argv[1]).read())])["content"]
more = ask([user("I am a sub-agent")])["content"]
open("note.txt", "w").write(more)
open(sys.argv[2], "w").write(said)
print("that was it")
"""
    with MockPolicy(Reply("10065"), Reply("noted")) as policy:
        result, made = play(policy, agent(program))
    assert (result.status, result.reward) == ("finished", 1.0), result.error_message
    assert made.stop_reason == "agent_finished"
    assert [(s.agent, s.branch, s.parent_step, s.dialect) for s in made.steps] == [
        ("command", 0, None, "chat"),
        ("command", 1, 0, "chat"),
    ]
    assert all(s.completion_token_ids == [7, 8] and s.completion_logprobs for s in made.steps)
    assert "`mailer`" in (made.steps[0].prompt_messages[0].content or "")
    assert json.loads(made.steps[1].state_patch or "")[0]["path"] == "/files/note.txt"
    details = json.loads(made.details or "")["agent"]
    assert details["output"] == "that was it\n"
    assert (details["status"], details["calls"]) == (0, 2)
    assert made.usage.completion_tokens == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    "harm",
    [
        "import shutil; shutil.rmtree(os.environ['HOME'])",
        "os.chmod(os.environ['HOME'], 0)",
        "ask([user('x')], tools=[{'type': 'function', 'function': {'name': chr(0xD800), 'parameters': {}}}])",
        "ask([user('x')], response_format={'type': 'json_schema', 'json_schema': {'schema': float('nan')}})",
    ],
)
def test_an_agent_cannot_have_its_failed_episode_thrown_away(harm: str) -> None:
    with MockPolicy(default=Reply("wrong")) as policy:
        result, made = play(policy, agent(f"ask([user('go')])\n{harm}\n"))
    assert (result.status, result.reward) == ("finished", 0.0), result.error_message
    assert made.stop_reason == "agent_finished"


@pytest.mark.slow
def test_one_that_goes_on_after_its_limit_is_killed_with_all_its_children() -> None:
    program = """
import subprocess, time
child = subprocess.Popen(["sleep", "600"], start_new_session=True)
said = ask([user("go")])
refused = ask([user("more")])
print(json.dumps({"child": child.pid, "own": os.getpid(), "refused": refused}), flush=True)
time.sleep(600)
"""
    with MockPolicy(default=Reply("10065")) as policy:
        result, made = play(policy, agent(program, limits={"turns": 1, "grace": 1.0}))
    assert (result.status, result.reward) == ("finished", 1.0), result.error_message
    assert made.stop_reason == "agent_max_turns"
    details = json.loads(made.details or "")["agent"]
    said = json.loads(details["output"])
    assert said["refused"]["error"]["code"] == "episode_limit_reached"
    assert details["status"] is None
    assert not is_alive(said["child"])
    assert not is_alive(said["own"])


@pytest.mark.slow
def test_one_whose_time_is_over_is_graded_as_it_is() -> None:
    program = "ask([user('go')])\nprint(os.getpid(), flush=True)\nimport time\ntime.sleep(600)"
    with MockPolicy(default=Reply("10065")) as policy:
        result, made = play(policy, agent(program, limits={"seconds": 3.0, "grace": 1.0}))
    assert (result.status, result.reward) == ("finished", 1.0), result.error_message
    assert made.stop_reason == "agent_max_seconds"


@pytest.mark.slow
def test_one_that_fails_after_a_call_and_says_nothing_is_graded_by_what_its_policy_said() -> None:
    with MockPolicy(Reply("10065")) as policy:
        result, made = play(policy, agent("ask([user('go')])\nsys.exit(3)"))
    assert (result.status, result.reward) == ("finished", 1.0), result.error_message
    assert made.stop_reason == "agent_failed"
    details = json.loads(made.details or "")["agent"]
    assert (details["status"], details["output"], details["answer"]) == (3, "", None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            agent("print('I give up'); sys.exit(3)"),
            "exited with 3, and it made no model call; its last output: I give up",
        ),
        (agent(""), "exited with 0, and it made no model call; its last output: (none)"),
        ({"command": ["no-such-program"]}, "its program was not found, or could not be started"),
        (
            agent("ask([], path='/v1/completions')"),
            "asked for POST /v1/completions, which the gateway has not",
        ),
        (
            agent(
                "import socket\nhost, port = os.environ['ANTHROPIC_BASE_URL'][7:].split(':')\n"
                "s = socket.create_connection((host, int(port)))\n"
                "s.sendall(b'PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n')\ns.recv(100)"
            ),
            "it speaks HTTP/2 only; the gateway speaks HTTP/1.1",
        ),
    ],
    ids=["exits", "idles", "not there", "another route", "http2"],
)
def test_one_that_makes_no_call_is_told_why_with_its_last_output(given: dict[str, Any], words: str) -> None:
    with MockPolicy() as policy:
        result, made = play(policy, given)
    assert result.status == "failed"
    assert result.failure == "environment"
    assert words in (result.error_message or "")
    assert made.steps == []


@pytest.mark.slow
def test_a_policy_that_fails_ends_the_episode_and_not_with_a_score() -> None:
    with MockPolicy(Reply("fine"), default=Fault(status=500)) as policy:
        program = "ask([user('go')])\nprint(ask([user('more')]))"
        result, made = play(policy, agent(program), request_timeout=3.0)
    assert result.status == "failed"
    assert (result.failure, result.error_stage) == ("policy", "policy")
    assert [step.action.content for step in made.steps] == ["fine"]


@pytest.mark.slow
def test_what_the_policy_refuses_from_the_first_call_on_fails_the_episode() -> None:
    with MockPolicy(default=Fault(status=400, message="no such model")) as policy:
        result, made = play(policy, agent("print(ask([user('go')]))"))
    assert (result.status, result.failure) == ("failed", "policy")
    assert "the first model call was refused" in (result.error_message or "")
    assert "no such model" in (result.error_message or "")
    assert made.steps == []


@pytest.mark.slow
def test_the_gateway_is_gone_when_its_episode_is() -> None:
    """A program that gets away finds nobody there: the connections of a session end with it."""
    with MockPolicy(default=Reply("10065"), latency=0.2) as policy:
        program = "ask([user('go')])\nimport subprocess\nsubprocess.Popen(['sleep', '600'])"
        result, _ = play(policy, agent(program))
        asked = len(policy.requests)
    assert result.reward == 1.0
    assert asked == 1


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"id": "codez"}, "agent.id: there is no agent 'codez'; did you mean codex?"),
        ({}, "give one of them: id, which is one of mini-swe-agent, codex, opencode, or command"),
        ({"id": "codex", "command": ["x"]}, "give one of them"),
        ({"id": "codex", "limits": {"cost": 1.0}}, "agent.limits.cost: 1 is given without prices"),
        ({"id": "codex", "limits": {"turn": 3}}, "there is no such key; did you mean turns?"),
        ({"id": "codex", "limits": {"seconds": 3000}}, "must be less than episode.timeout, 1800"),
        ({"id": "codex", "limits": {"seconds": 1650}}, "up to 1804 s, which must be less than episode"),
        (
            {"command": ["x"], "files": {"a.py": "no/such.py"}},
            "environment.args.agent.files.a.py: no/such.py",
        ),
        (
            {"command": ["x"], "files": {"../a.py": "a.py"}},
            "agent.files: '../a.py' is no path",
        ),
        ({"command": ["x"], "files": {"/etc/a.py": "a.py"}}, "agent.files: '/etc/a.py' is no path"),
    ],
)
def test_what_is_wrong_with_an_agent_in_a_config_is_one_error_that_names_it(
    given: dict[str, Any], words: str
) -> None:
    with pytest.raises(EnvironmentLoadError) as caught:
        load_environment(agent=given, episode_timeout=1800.0)
    assert words in str(caught.value)
    assert str(caught.value).startswith("environment.args.agent")


def test_the_oracle_cannot_play_an_agent() -> None:
    with pytest.raises(EnvironmentLoadError, match=r"policy\.kind is `oracle`"):
        load_environment(agent={"id": "codex"}, policy="oracle")
