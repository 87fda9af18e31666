"""The FastAPI app that every process serves: problem responses, health, metrics, and limits on request bodies."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Response
from fastapi.middleware.cors import CORSMiddleware
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from shared.auth import Authenticator
from shared.http_server import ConnectionLimits, serve_http
from shared.logs import get_logger
from shared.problems import Problem, install_problem_handlers, problem_response
from shared.settings import ProcessSettings
from shared.trace import continue_traceparent, current_traceparent

log = get_logger()

BODY_BYTES_MAX = 1024 * 1024
#: For the JSON APIs, whose requests have a few hundred bytes.
API_BODY_BYTES_MAX = 64 * 1024
#: From the end of a request's head to the last byte of its body. A slower sender would occupy a connection.
BODY_TIMEOUT_S = 10.0
READY_CHECK_TIMEOUT_S = 3.0
#: The memory for bodies that are being received, in total. The first `SMALL_BODY_BYTES` of each do not count.
LARGE_BODIES_BYTES_MAX = 32 * 1024 * 1024
SMALL_BODY_BYTES = 64 * 1024
RETRY_LARGE_BODY_AFTER_S = 5

#: Returns what is wrong, or None.
ReadyCheck = Callable[[], Awaitable[str | None]]
Scope = dict[str, Any]
#: Authenticates a request by its headers. Raises a Problem if it cannot.
Authenticate = Callable[[Scope], Awaitable[object]]


@dataclass(slots=True)
class Readiness:
    """The checks that /readyz runs, by name."""

    checks: dict[str, ReadyCheck] = field(default_factory=dict[str, ReadyCheck])

    async def problems(self) -> dict[str, str]:
        """Runs all checks. Returns what is wrong, by the name of the check."""
        found: dict[str, str] = {}
        for name, check in self.checks.items():
            try:
                async with asyncio.timeout(READY_CHECK_TIMEOUT_S):
                    problem = await check()
            except Exception as error:  # any error of a check means "not ready"
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
    authenticator: Authenticator | None = None,
) -> FastAPI:
    """Creates a FastAPI app with problem responses, /healthz, /readyz, /metrics and trace context.

    With an `authenticator`, a request is authenticated before its body is read.
    """
    app = FastAPI(title=title, description=description, version="1", lifespan=lifespan, redoc_url=None)
    install_problem_handlers(app)
    if cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=cors_origins,
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "traceparent"],
        )
    app.state.authenticator = authenticator
    app.add_middleware(
        _BodyLimitMiddleware,
        bytes_max=body_bytes_max,
        authenticate=None if authenticator is None else authenticator.authenticate,
    )
    app.add_middleware(_TraceMiddleware)

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


async def serve(app: Any, process: ProcessSettings, stopping: asyncio.Event) -> None:
    """Serves an ASGI app in this event loop until `stopping` is set, then finishes the requests in flight."""
    limits = ConnectionLimits(process.http_connections_max, process.http_connections_per_address_max)
    await serve_http(app, process.http_host, process.http_port, stopping, limits)


class _TraceMiddleware:
    """Continues the caller's trace, or starts a new one."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            incoming = next((value for name, value in scope["headers"] if name == b"traceparent"), b"")
            current_traceparent.set(continue_traceparent(incoming.decode("latin-1")))
        await self._app(scope, receive, send)


class _BodyRefused(Exception):
    pass


class BodiesInMemory:
    """Limits the memory that the request bodies of a process use together. The first `SMALL_BODY_BYTES` of each body do
    not count."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0

    def hold(self, held: int, received: int) -> int:
        """Counts a body of which `received` bytes have arrived and `held` bytes are counted so far.

        Returns how many bytes of it are counted now. Raises a Problem 503 if all bodies together exceed the limit.
        """
        more = max(0, received - SMALL_BODY_BYTES) - held
        if more <= 0:
            return held
        if self._bytes + more > self._bytes_max:
            raise Problem(
                503,
                "too_many_in_flight",
                "Too many large bodies arrive at once. Send it again later.",
                {"Retry-After": str(RETRY_LARGE_BODY_AFTER_S)},
            )
        self._bytes += more
        return held + more

    def release(self, held: int) -> None:
        """Stops counting a body for which `held` bytes were counted."""
        self._bytes -= held


class _BodyLimitMiddleware:
    """Refuses a body if its caller has no valid token, if it is too large, if it arrives too slowly, or if the large
    bodies of the process use too much memory. The server discards the rest of a refused body."""

    def __init__(self, app: Any, bytes_max: int, authenticate: Authenticate | None) -> None:
        self._app = app
        self._bytes_max = bytes_max
        self._authenticate = authenticate
        self._bodies = BodiesInMemory(LARGE_BODIES_BYTES_MAX)

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        content_length = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        deadline = asyncio.get_running_loop().time() + BODY_TIMEOUT_S
        received = held = 0
        is_whole = False
        has_answered = False
        refusal: Problem | None = None

        async def receive_part() -> Any:
            nonlocal received, held, is_whole
            if not received and self._authenticate is not None:
                await self._authenticate(scope)
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise Problem(408, "body_too_slow", f"The body did not arrive within {BODY_TIMEOUT_S:g} s.") from None
            received += len(message.get("body", b""))
            if received > self._bytes_max:
                raise self._too_large()
            held = self._bodies.hold(held, received)
            is_whole = not message.get("more_body", False)
            return message

        async def receive_limited() -> Any:
            nonlocal refusal
            if is_whole:
                return await receive()
            if refusal is None:
                try:
                    return await receive_part()
                except Problem as problem:
                    refusal = problem
            raise _BodyRefused

        async def send_unless_refused(message: Any) -> None:
            nonlocal has_answered
            if refusal is not None and not has_answered:
                return  # FastAPI's own 400 for a body that it could not read; the refusal is sent below
            has_answered = True
            await send(message)

        if content_length.isdigit() and int(content_length) > self._bytes_max:
            await problem_response(self._too_large())(scope, receive, send)
            return
        try:
            with contextlib.suppress(_BodyRefused):
                await self._app(scope, receive_limited, send_unless_refused)
        finally:
            self._bodies.release(held)
        if refusal is not None and not has_answered:
            await problem_response(refusal)(scope, receive, send)

    def _too_large(self) -> Problem:
        return Problem(413, "body_too_large", f"The body is larger than {self._bytes_max} bytes. Send less.")
