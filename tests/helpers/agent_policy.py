"""A policy that plays agents by the shell tasks' own solutions, whatever tools the agent offers it."""

import json
import shlex
from typing import Any

from tests.helpers.scripted_policy import ScriptedPolicy
from workers.environments.shell.dataset import ShellTask, load_cards, make_shell_task

SHELL_TOOLS = ("exec_command", "shell_command", "shell", "bash")
"""Names under which agents offer to run a command."""


class AgentPolicy(ScriptedPolicy):
    """Knows a request's task by its instruction, and says the next command of its solution.

    Args:
        tasks: Names of the tasks that may come.
    """

    def __init__(self, *tasks: str) -> None:
        super().__init__(self._play)
        self._tasks = [make_shell_task(name, 0) for name in tasks]

    def _play(self, body: dict[str, Any]) -> dict[str, Any]:
        given: list[Any] = body.get("tools") or []
        tools = [tool["function"]["name"] for tool in given]
        offered = next((name for name in SHELL_TOOLS if name in tools), None)
        task = self._task_of(body)
        if offered is None or task is None:
            return self._said(body, "A short title")
        commands = commands_of(task)
        done = sum(message["role"] == "tool" for message in body["messages"])
        is_mini = any("COMPLETE_TASK" in str(message.get("content")) for message in body["messages"])
        if done < len(commands):
            return self._said(body, f"Step {done}.", (offered, _arguments(offered, commands[done])))
        if is_mini:
            end = (
                f"echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT; printf %s {shlex.quote(task.solution.message)}"
            )
            return self._said(body, "Done.", (offered, {"command": end}))
        return self._said(body, task.solution.message)

    def _task_of(self, body: dict[str, Any]) -> ShellTask | None:
        text = json.dumps(body["messages"])
        for task in self._tasks:
            if json.dumps(task.card.instruction.strip())[1:120] in text:
                return task
        return None

    def _said(
        self, body: dict[str, Any], content: str, call: tuple[str, dict[str, Any]] | None = None
    ) -> dict[str, Any]:
        number = len(self.requests)
        message: dict[str, Any] = {"role": "assistant", "content": content}
        if call is not None:
            function = {"name": call[0], "arguments": json.dumps(call[1])}
            message["tool_calls"] = [{"id": f"call_{number}", "type": "function", "function": function}]
        ids = [100 + number, 7, 8]
        choice: dict[str, Any] = {
            "index": 0,
            "message": message,
            "finish_reason": "tool_calls" if call else "stop",
            "token_ids": ids,
            "logprobs": {"content": [{"token": f"token_id:{i}", "logprob": -0.5} for i in ids]},
        }
        prompt = list(range(1, 10))
        usage = {"prompt_tokens": len(prompt), "completion_tokens": len(ids), "total_tokens": len(prompt) + 3}
        return {
            "id": f"answer-{number}",
            "object": "chat.completion",
            "created": 1,
            "model": self.model,
            "choices": [choice],
            "prompt_token_ids": prompt,
            "usage": usage,
        }


def commands_of(task: ShellTask) -> list[str]:
    """A task's solution as commands for a shell that starts in the workspace each time."""
    commands: list[str] = []
    for call in task.solution.calls:
        given = call.arguments
        match call.tool:
            case "bash":
                commands.append(given["command"])
            case "python":
                commands.append(f"python3 -c {shlex.quote(given['code'])}")
            case "write_file":
                folder = shlex.quote(given["path"].rpartition("/")[0] or ".")
                text, path = shlex.quote(given["content"]), shlex.quote(given["path"])
                commands.append(f"mkdir -p {folder} && printf %s {text} > {path}")
            case "edit_file":
                edit = (
                    "import sys; p, a, b = sys.argv[1:]; s = open(p).read(); assert s.count(a) == 1; "
                    "open(p, 'w').write(s.replace(a, b))"
                )
                parts = [given["path"], given["old"], given["new"]]
                commands.append(shlex.join(["python3", "-c", edit, *parts]))
            case _:
                commands.append("ls")
    return commands


def _arguments(tool: str, command: str) -> dict[str, Any]:
    match tool:
        case "exec_command":
            return {"cmd": command}
        case "shell":
            return {"command": ["bash", "-lc", command]}
        case _:
            return {"command": command, "description": "Runs it."}


def all_tasks() -> list[str]:
    """Names of all bundled tasks."""
    return list(load_cards())
