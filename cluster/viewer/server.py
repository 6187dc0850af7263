"""The viewer's server: a page, and what it asks for, on an address of this machine."""

import json
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from cluster.errors import ClusterError
from cluster.viewer.episode_query import Query
from cluster.viewer.library import Library, NotFound, OpenRun
from cluster.viewer.notes import Note
from cluster.viewer.token_sequences import describe_sequences

DIST = Path(__file__).parent / "dist"
"""The built page."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""What the page may load: nothing but from this server, and no script that stands in a text."""
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_CONTENT_TYPES = {".js": "text/javascript", ".css": "text/css", ".html": "text/html", ".svg": "image/svg+xml"}
_MAX_NOTE_BYTES = 2**20
_MAX_STEPS = 200


class TokenCheck:
    """Lets in only who has the token: in the address once, in a cookie afterwards.

    Args:
        app: What is guarded.
        token: The token.
        hosts: Names by which the server may be called, against pages that point a name of theirs here.
            None: any.
    """

    def __init__(self, app: ASGIApp, token: str, hosts: frozenset[str] | None) -> None:
        self._app = app
        self._token = token
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, or has it answered."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        response = self._refusal(request)
        if response is None:

            async def send_with_headers(message: Any) -> None:
                if message["type"] == "http.response.start":
                    message["headers"] += [
                        (name.lower().encode(), value.encode()) for name, value in _HEADERS.items()
                    ]
                await send(message)

            await self._app(scope, receive, send_with_headers)
            return
        response.headers.update(_HEADERS)
        await response(scope, receive, send)

    def _refusal(self, request: Request) -> Response | None:
        host = request.headers.get("host", "").rpartition(":")
        if self._hosts is not None and (host[0] or host[2]).strip("[]") not in self._hosts:
            return PlainTextResponse("this name does not belong to the viewer", 421)
        cookie = f"kumite_view_{request.url.port or 80}"
        if given := request.query_params.get("token"):
            if not secrets.compare_digest(given.encode(), self._token.encode()):
                return PlainTextResponse("the token in the address is not this viewer's", 403)
            response = RedirectResponse(request.url.path, 303)
            response.set_cookie(cookie, self._token, httponly=True, samesite="strict")
            return response
        if not secrets.compare_digest(request.cookies.get(cookie, "").encode(), self._token.encode()):
            return PlainTextResponse("open the address that `kumite view` printed: it has a token in it", 403)
        origin = request.headers.get("origin")
        if request.method != "GET" and origin not in (None, f"{request.url.scheme}://{request.url.netloc}"):
            return PlainTextResponse("another site's page may change nothing here", 403)
        return None


class ApiRoutes:
    """The routes that answer the requests of the viewer's page."""

    def __init__(self, library: Library) -> None:
        self._library = library

    def routes(self) -> list[Route]:
        """The addresses."""
        episode = "/api/runs/{run}/episodes/{episode}"
        return [
            Route("/", self._send_page_file, name="index"),
            Route("/assets/{file}", self._send_page_file),
            Route("/api/runs", self._make_endpoint(self._list_runs)),
            Route("/api/compare/{runs:path}", self._make_endpoint(self._compare_runs)),
            Route("/api/runs/{run}", self._make_endpoint(lambda r: self._get_run(r).overview())),
            Route("/api/runs/{run}/brief", self._make_endpoint(lambda r: self._get_run(r).brief())),
            Route("/api/runs/{run}/progress", self._make_endpoint(lambda r: self._get_run(r).progress())),
            Route("/api/runs/{run}/injections", self._make_endpoint(lambda r: self._get_run(r).injections())),
            Route("/api/runs/{run}/tools", self._make_endpoint(lambda r: self._get_run(r).tool_use())),
            Route("/api/runs/{run}/episodes", self._make_endpoint(self._list_episodes)),
            Route(episode, self._make_endpoint(self._get_episode)),
            Route(f"{episode}/steps", self._make_endpoint(self._list_steps)),
            Route(f"{episode}/state", self._make_endpoint(self._get_state)),
            Route(f"{episode}/files", self._make_endpoint(self._list_file_changes)),
            Route(f"{episode}/sequences", self._make_endpoint(self._list_sequences)),
            Route(f"{episode}/text", self._get_text),
            Route(f"{episode}/note", self._put_note, methods=["PUT"]),
        ]

    async def _send_page_file(self, request: Request) -> Response:
        file = (
            DIST / "assets" / request.path_params["file"]
            if "file" in request.path_params
            else DIST / "index.html"
        )
        if file.parent not in (DIST, DIST / "assets") or not file.is_file():
            return PlainTextResponse("there is no such file", 404)
        return FileResponse(file, media_type=_CONTENT_TYPES.get(file.suffix, "application/octet-stream"))

    def _make_endpoint(self, answer: Callable[[Request], Any]) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            try:
                return _json_response(await run_in_threadpool(answer, request))
            except NotFound as error:
                return _json_response({"error": str(error)}, 404)
            except (ClusterError, ValueError, FileNotFoundError) as error:
                return _json_response({"error": str(error)}, 400)

        return endpoint

    def _get_run(self, request: Request) -> OpenRun:
        return self._library.run(request.path_params["run"])

    def _list_runs(self, _: Request) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for run in self._library.runs:
            try:
                found.append(run.describe())
            except ClusterError as error:
                found.append({"key": run.key, "place": run.place, "name": run.place, "error": str(error)})
        return found

    def _compare_runs(self, request: Request) -> dict[str, Any]:
        return self._library.compare([key for key in request.path_params["runs"].split("/") if key])

    def _list_episodes(self, request: Request) -> dict[str, Any]:
        first, count = _read_number(request, "first", 0), _read_number(request, "count", 100)
        by_task = request.query_params.get("by") == "task"
        return self._get_run(request).page(_read_query(request), first, count, by_task=by_task)

    def _get_episode(self, request: Request) -> dict[str, Any]:
        run, key = self._get_run(request), request.path_params["episode"]
        note = run.notes.read().get(key, Note())
        return {
            **run.transcript(key).head(),
            "neighbours": run.neighbours(_read_query(request), key),
            "samples": run.samples(key),
            "note": note.model_dump(),
        }

    def _list_steps(self, request: Request) -> list[dict[str, Any]]:
        run = self._get_run(request)
        first, count = _read_number(request, "first", 0), min(_read_number(request, "count", 20), _MAX_STEPS)
        return run.transcript(request.path_params["episode"]).steps(first, count, run.texts())

    def _get_state(self, request: Request) -> dict[str, Any]:
        transcript = self._get_run(request).transcript(request.path_params["episode"])
        if transcript.history is None:
            raise NotFound("the environment showed no state")
        step = int(request.query_params.get("step", "-1"))
        return {"step": step, "tree": transcript.history.tree(min(step, transcript.step_count - 1))}

    def _list_file_changes(self, request: Request) -> list[dict[str, Any]]:
        transcript = self._get_run(request).transcript(request.path_params["episode"])
        if transcript.history is None:
            raise NotFound("the environment showed no state")
        step = _read_number(request, "step", -1, -1)
        return transcript.file_changes(None if step < 0 else min(step, transcript.step_count - 1))

    def _list_sequences(self, request: Request) -> dict[str, Any]:
        run = self._get_run(request)
        return describe_sequences(run.transcript(request.path_params["episode"]).episode, run.texts())

    async def _get_text(self, request: Request) -> Response:
        def read() -> str | None:
            transcript = self._get_run(request).transcript(request.path_params["episode"])
            return transcript.text_of(
                _read_number(request, "step", -1, -1), request.query_params.get("part", "")
            )

        try:
            text = await run_in_threadpool(read)
        except (NotFound, ValueError) as error:
            return PlainTextResponse(str(error), 404)
        if text is None:
            return PlainTextResponse("there is no such text", 404)
        return Response(text.encode("utf-8", "replace"), media_type="text/plain; charset=utf-8")

    async def _put_note(self, request: Request) -> Response:
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > _MAX_NOTE_BYTES:
                return _json_response({"error": "a note has at most 1 MiB"}, 413)
        try:
            note = Note.model_validate_json(body)
            await run_in_threadpool(lambda: self._get_run(request).note(request.path_params["episode"], note))
        except NotFound as error:
            return _json_response({"error": str(error)}, 404)
        except (ClusterError, ValidationError) as error:
            return _json_response({"error": str(error)}, 400)
        return _json_response(note.model_dump())


def build_app(library: Library, token: str, hosts: frozenset[str] | None = None) -> Starlette:
    """The viewer as an ASGI application.

    Args:
        library: The runs.
        token: Who has it is let in.
        hosts: Names by which the server may be called. None: any.
    """
    guard = Middleware(TokenCheck, token=token, hosts=hosts)
    return Starlette(routes=ApiRoutes(library).routes(), middleware=[guard])


def _read_query(request: Request) -> Query:
    given = request.query_params
    return Query(
        search=given.get("search", ""),
        filters=tuple(text for text in given.getlist("where") if text),
        sort=given.get("sort", ""),
        tags=tuple(tag for tag in given.getlist("tag") if tag),
    )


def _read_number(request: Request, name: str, default: int, least: int = 0) -> int:
    text = request.query_params.get(name, str(default))
    try:
        value = int(text)
    except ValueError:
        raise ValueError(f"{name} is {text!r}, and should be a whole number") from None
    return max(least, value)


def _json_response(content: Any, status: int = 200) -> Response:
    try:
        text = json.dumps(content, ensure_ascii=False, allow_nan=False)
    except ValueError:  # not-a-numbers, which JSON has none of
        text = json.dumps(replace_non_finite(content), ensure_ascii=False)
    return Response(text.encode("utf-8", "replace"), status, media_type="application/json")


def replace_non_finite(value: Any) -> Any:
    """A value with its not-a-numbers and infinities as text: JSON has none of them."""
    if isinstance(value, float):
        return value if value - value == 0 else str(value)
    if isinstance(value, dict):
        return {key: replace_non_finite(child) for key, child in cast(dict[str, Any], value).items()}
    return (
        [replace_non_finite(child) for child in cast(list[Any], value)] if isinstance(value, list) else value
    )
