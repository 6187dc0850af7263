"""A server that speaks the Hugging Face hub's API as far as a push of a dataset needs it."""

import base64
import hashlib
import json
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Hub:
    """What the server holds."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict[str, bytes])
    objects: dict[str, bytes] = field(default_factory=dict[str, bytes])
    """Large files by their SHA-256."""
    created: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    commits: list[str] = field(default_factory=list[str])
    refuse: int | None = None
    """Status with which every request is answered."""


@contextmanager
def serving_hub() -> Generator[Hub]:
    """A hub on loopback."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

        def answer(self, body: Any, status: int = 200) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def body(self) -> bytes:
            return self.rfile.read(int(self.headers.get("content-length") or 0))

        def do_GET(self) -> None:
            if hub.refuse:
                return self.answer({"error": "no"}, hub.refuse)
            if "/tree/" in self.path:
                rows = [
                    {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                    for path, data in hub.files.items()
                ]
                return self.answer(rows)
            return self.answer({"id": "me/rollouts", "sha": "0" * 40, "siblings": []})

        def do_PUT(self) -> None:
            data = self.body()
            hub.objects[hashlib.sha256(data).hexdigest()] = data
            self.answer({})

        def do_POST(self) -> None:
            raw = self.body()
            if hub.refuse:
                return self.answer({"error": "no"}, hub.refuse)
            if self.path == "/api/repos/create":
                hub.created.append(json.loads(raw))
                return self.answer({"url": f"{hub.url}/datasets/me/rollouts", "name": "me/rollouts"})
            if self.path == "/api/validate-yaml":
                return self.answer({"errors": [], "warnings": []})
            if "/preupload/" in self.path:
                modes = [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if file["path"].endswith(".parquet") else "regular",
                        "shouldIgnore": False,
                    }
                    for file in json.loads(raw)["files"]
                ]
                return self.answer({"files": modes})
            if self.path.endswith("/objects/batch"):
                objects = [
                    {
                        **{key: each[key] for key in ("oid", "size")},
                        "actions": {"upload": {"href": f"{hub.url}/upload/{each['oid']}"}},
                    }
                    for each in json.loads(raw)["objects"]
                ]
                return self.answer({"transfer": "basic", "objects": objects})
            if "/commit/" in self.path:
                self.take_commit(raw)
                return self.answer(
                    {
                        "commitUrl": f"{hub.url}/datasets/me/rollouts/commit/{chr(49) * 40}",
                        "commitOid": "1" * 40,
                        "success": True,
                    }
                )
            return self.answer({"error": f"unknown {self.path}"}, 404)

        def take_commit(self, raw: bytes) -> None:
            for line in raw.splitlines():
                entry = json.loads(line)
                value = entry["value"]
                if entry["key"] == "header":
                    hub.commits.append(value["summary"])
                elif entry["key"] == "file":
                    hub.files[value["path"]] = base64.b64decode(value["content"])
                elif entry["key"] == "lfsFile":
                    hub.files[value["path"]] = hub.objects[value["oid"]]
                elif entry["key"] == "deletedFile":
                    del hub.files[value["path"]]

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
