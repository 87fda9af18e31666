"""The HTTP door: an app with problems, health and metrics, and a server for it in this process's event loop."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Response
from fastapi.middleware.cors import CORSMiddleware
from granian.constants import Interfaces
from granian.http import HTTP1Settings
from granian.server.embed import Server
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from shared.logs import get_logger
from shared.problems import Problem, install_problem_handlers, problem_response
from shared.trace import continue_traceparent, current_traceparent

log = get_logger()

BODY_BYTES_MAX = 1024 * 1024
#: What our APIs are sent has a few hundred bytes; a body is kept before its token is looked at.
API_BODY_BYTES_MAX = 64 * 1024
#: From a request's head to the last byte of its body: who sends slower keeps a connection from everybody else.
BODY_TIMEOUT_S = 10.0
CONNECTION_BACKLOG = 1_024
READY_CHECK_TIMEOUT_S = 3.0
#: How much of a refused body is read all the same, and for how long.
DISCARDED_BYTES_MAX = 4 * BODY_BYTES_MAX
DISCARD_TIMEOUT_S = 2.0

#: Returns None when all is well, or what is wrong.
ReadyCheck = Callable[[], Awaitable[str | None]]
Scope = dict[str, Any]


@dataclass(slots=True)
class Readiness:
    """What /readyz asks."""

    checks: dict[str, ReadyCheck] = field(default_factory=dict[str, ReadyCheck])

    async def problems(self) -> dict[str, str]:
        """The checks that fail, with what they say."""
        found: dict[str, str] = {}
        for name, check in self.checks.items():
            try:
                async with asyncio.timeout(READY_CHECK_TIMEOUT_S):
                    problem = await check()
            except Exception as error:  # whatever the check meets, the answer is "not ready"
                problem = type(error).__name__
            if problem is not None:
                found[name] = problem
        return found


def create_http_app(
    title: str,
    *,
    description: str,
    readiness: Readiness,
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]] | None = None,
    cors_origins: list[str] | None = None,
    body_bytes_max: int = API_BODY_BYTES_MAX,
) -> FastAPI:
    """A FastAPI app with what every process of ours answers."""
    app = FastAPI(title=title, description=description, version="1", lifespan=lifespan, redoc_url=None)
    install_problem_handlers(app)
    if cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=cors_origins,
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "traceparent"],
        )
    app.add_middleware(_BodyLimit, bytes_max=body_bytes_max)
    app.add_middleware(_Trace)

    @app.get("/healthz", include_in_schema=False)
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz", include_in_schema=False)
    async def readyz() -> Response:
        problems = await readiness.problems()
        if problems:
            detail = "; ".join(f"{name}: {problem}" for name, problem in problems.items())
            return problem_response(Problem(503, "not_ready", detail, headers={"Retry-After": "1"}))
        return Response('{"status":"ready"}', media_type="application/json")

    @app.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return app


async def serve(app: Any, host: str, port: int, stopping: asyncio.Event) -> None:
    """Serves an ASGI app in this event loop until `stopping`; requests in flight are answered first."""
    server = Server(
        app,
        address=host,
        port=port,
        interface=Interfaces.ASGI,
        backlog=CONNECTION_BACKLOG,
        log_enabled=False,
        websockets=False,
        http1_settings=HTTP1Settings(header_read_timeout=10_000, max_buffer_size=64 * 1024),
    )
    serving = asyncio.create_task(server.serve())
    stop = asyncio.create_task(stopping.wait())
    await asyncio.wait([serving, stop], return_when=asyncio.FIRST_COMPLETED)
    stop.cancel()
    if not serving.done():
        server.stop()
    await serving


async def discard_body(receive: Callable[[], Awaitable[Any]]) -> None:
    """Reads a refused body, bounded, and throws it away: closing on a caller who still sends costs it the answer."""
    discarded = 0
    try:
        async with asyncio.timeout(DISCARD_TIMEOUT_S):
            while discarded < DISCARDED_BYTES_MAX:
                message = await receive()
                discarded += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return
    except TimeoutError:
        return


class _Trace:
    """Continues the caller's trace, or begins one."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            incoming = next((value for name, value in scope["headers"] if name == b"traceparent"), b"")
            current_traceparent.set(continue_traceparent(incoming.decode("latin-1")))
        await self._app(scope, receive, send)


class _BodyRefused(Exception):
    pass


class _BodyLimit:
    """Refuses bodies over the limit, announced or not, before anything reads them, and those that do not arrive."""

    def __init__(self, app: Any, bytes_max: int) -> None:
        self._app = app
        self._bytes_max = bytes_max

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        deadline = asyncio.get_running_loop().time() + BODY_TIMEOUT_S
        received = 0
        is_whole = False
        has_answered = False
        refusal: Problem | None = None
        too_large = Problem(413, "body_too_large", f"The body is larger than {self._bytes_max} bytes. Send less.")
        too_slow = Problem(
            408, "body_too_slow", f"The body did not arrive within {BODY_TIMEOUT_S:g} s.", {"Connection": "close"}
        )

        async def limited() -> Any:
            nonlocal received, is_whole, refusal
            if is_whole:
                return await receive()
            if refusal is None:
                try:
                    async with asyncio.timeout_at(deadline):
                        message = await receive()
                except TimeoutError:
                    refusal = too_slow
                    raise _BodyRefused from None
                received += len(message.get("body", b""))
                is_whole = not message.get("more_body", False)
                if received <= self._bytes_max:
                    return message
                refusal, is_whole = too_large, False
            raise _BodyRefused

        async def unless_refused(message: Any) -> None:
            nonlocal has_answered
            if refusal is not None and not has_answered:
                return  # FastAPI answers 400 to a body that it could not read
            has_answered = True
            await send(message)

        if announced.isdigit() and int(announced) > self._bytes_max:
            await discard_body(receive)
            await problem_response(too_large)(scope, receive, send)
            return
        with contextlib.suppress(_BodyRefused):
            await self._app(scope, limited, unless_refused)
        if refusal is not None and not has_answered:
            if refusal is too_large:
                await discard_body(receive)
            await problem_response(refusal)(scope, receive, send)
