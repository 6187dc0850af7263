"""`python -m sandbox_images.tool_host TOOLSET [OPTIONS]`: serves one toolset over stdin and stdout."""

import gc
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from sandbox_images.tool_host import process, wire
from sandbox_images.tool_host.scratch import remove
from sandbox_images.tool_host.server import Server
from sandbox_images.tool_host.session import failure
from sandbox_images.tool_host.toolset import Toolset, load_toolset

PROTOCOL = 1


def main() -> int:
    """Loads the toolset, says so in a first frame with id 0, and serves until stdin closes."""
    toolset_path = sys.argv[1]
    options: dict[str, Any] = json.loads(sys.argv[2]) if len(sys.argv) > 2 else {}
    reader, writer = os.dup(0), os.dup(1)
    os.set_inheritable(reader, False)
    os.set_inheritable(writer, False)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    process.adopt_orphans()
    score = process.OomScore()
    process.hide_memory()
    toolset, hello = _load(toolset_path, options)
    gc.collect()
    gc.freeze()
    process.use_huge_pages()
    if toolset is None:
        os.write(writer, wire.encode(hello))
        return 1
    scratch = Path(options.get("scratch") or tempfile.mkdtemp(prefix="kumite-"))
    users = None
    if options.get("first_user") is not None:
        users = process.session_users(options["first_user"])
        scratch.chmod(0o711)  # runc 1.1 gives a tmpfs the mode of the folder it is mounted on, not its own
    server = Server(
        toolset,
        reader,
        writer,
        scratch,
        options.get("limits", {}),
        options.get("quiet", True),
        score.fork,
        users,
        options.get("contained", False),
    )
    server.reply(hello)
    try:
        server.run()
    finally:
        if options.get("temporary", not options.get("scratch")):
            remove(str(scratch))
    return 0


def _load(path: str, options: dict[str, Any]) -> tuple[Toolset | None, dict[str, Any]]:
    """The toolset, preloaded, and the first frame; None, and a frame that says why, if it fails."""
    began = time.monotonic()
    try:
        toolset = load_toolset(path, options.get("toolset", {}))
        toolset.preload()
    except Exception as error:  # noqa: BLE001 - the worker is told why its sandbox does not come up
        return None, failure(0, "preload", error)
    hello = {
        "protocol": PROTOCOL,
        "preload_seconds": time.monotonic() - began,
        "weakest_recycle": toolset.weakest_recycle,
        "runs_model_code": toolset.runs_model_code,
    }
    return toolset, {"id": 0, "ok": True, "result": hello}


if __name__ == "__main__":
    sys.exit(main())
