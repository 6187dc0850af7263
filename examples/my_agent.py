"""An agent of one's own: a loop around Anthropic's Messages, with one tool.

It knows nothing of Kumite: its model is at ANTHROPIC_BASE_URL, and it works in the folder it is started in.
`examples/shell_my_agent.yaml` plays the shell tasks with it.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from anthropic import Anthropic

TOOL: Any = {
    "name": "bash",
    "description": "Runs a command in the current folder and gives what it printed.",
    "input_schema": {
        "type": "object",
        "properties": {"command": {"type": "string"}},
        "required": ["command"],
    },
}


def run(command: str) -> str:
    """What a command prints, and its exit code."""
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=120, errors="replace"
    )
    return f"{done.stdout}{done.stderr}\n[exit code {done.returncode}]"[-16_000:]


def main() -> None:
    """Works on the task in the file that is the first argument, and writes the last words to the second."""
    model = os.environ["KUMITE_MODEL"]
    messages: list[Any] = [{"role": "user", "content": Path(sys.argv[1]).read_text()}]
    client = Anthropic()
    while True:
        with client.messages.stream(model=model, max_tokens=4096, messages=messages, tools=[TOOL]) as stream:
            answer = stream.get_final_message()
        messages.append({"role": "assistant", "content": answer.content})
        results: list[Any] = []
        for block in answer.content:
            if block.type == "text":
                print(block.text, flush=True)
            elif block.type == "tool_use":
                output = run(str(dict(block.input).get("command", "")))
                results.append({"type": "tool_result", "tool_use_id": block.id, "content": output})
        if not results:
            said = "".join(block.text for block in answer.content if block.type == "text")
            Path(sys.argv[2]).write_text(said)
            return
        messages.append({"role": "user", "content": results})


if __name__ == "__main__":
    main()
