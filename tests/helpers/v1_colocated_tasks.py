"""A taskset whose toolset runs in the container of its program, by a Python of the image's."""

import verifiers.v1 as vf

SERVER = '''
import json, os, socket, urllib.request

import uvicorn
from mcp.server.fastmcp import FastMCP

mcp = FastMCP("counting", json_response=True, stateless_http=True)
STATE = os.environ["VF_STATE_URL"]


def ask(url, method="GET", data=None):
    headers = {"Authorization": "Bearer " + os.environ["VF_STATE_SECRET"], "Content-Type": "application/json"}
    return urllib.request.urlopen(urllib.request.Request(url, data, headers, method=method)).read()


PROMPT = json.loads(json.loads(ask(STATE.removesuffix("/state") + "/task"))["task"])["prompt"]


@mcp.tool()
def count(by: int) -> str:
    """Counts on."""
    state = json.loads(ask(STATE))
    state["count"] += by
    ask(STATE, "PUT", json.dumps(state).encode())
    return f"{state['count']} of {PROMPT} {open('/etc/hostname').read().strip()}"


@mcp.tool()
def die() -> str:
    """Ends the server."""
    os._exit(1)


listener = socket.socket()
listener.bind(("127.0.0.1", 0))
with open(os.environ["MCP_PORT_FILE"], "w") as file:
    file.write(str(listener.getsockname()[1]))
uvicorn.Server(uvicorn.Config(mcp.streamable_http_app(), log_level="critical")).run(sockets=[listener])
'''


class Count(vf.State):
    count: int = 0


class Counting(vf.Toolset[vf.ToolsetConfig, Count]):
    """Is served by `SERVER`, which the task's set-up puts there: an image of one's own would have it."""

    __module__ = "counting_server"
    RUNTIME_PYTHON = "/opt/harness/chat-mcp-1/bin/python"


class NotThere(vf.Toolset[vf.ToolsetConfig]):
    """Is of a module that is no package, so that verifiers can't bring it into a container."""


class CountingConfig(vf.TaskConfig):
    is_there: bool = True


class CountingTask(vf.Task[vf.TaskData, Count, CountingConfig]):
    @classmethod
    def toolsets(cls, config):
        return [(Counting if config.is_there else NotThere)(vf.ToolsetConfig(colocated=True))]

    async def setup(self, trace: vf.Trace, runtime: vf.Runtime) -> None:
        await runtime.write("counting_server.py", SERVER.encode())

    @vf.reward
    async def counted(self, trace: vf.Trace) -> float:
        return float(trace.state.count)  # pyright: ignore[reportAttributeAccessIssue]


class CountingTasksConfig(vf.TasksetConfig):
    task: CountingConfig = CountingConfig()


class CountingTasks(vf.Taskset[CountingTask, CountingTasksConfig]):  # pyright: ignore[reportInvalidTypeArguments]
    def load(self):
        yield CountingTask(vf.TaskData(idx=0, prompt="Count."), self.config.task)


__all__ = ["CountingTasks"]
