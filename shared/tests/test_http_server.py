"""The limits of the HTTP server, over real sockets. tests/flow/test_slow_clients.py tests them in running services."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from prometheus_client import REGISTRY

from embedded.ports import reserve
from load.waiting import until
from shared import http_server
from shared.http_server import HEAD_BYTES_MAX, PIPELINED_REQUESTS_MAX, ConnectionLimits, State, serve_http

TIMEOUT_S = 10.0
GET = b"GET / HTTP/1.1\r\nhost: test\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 10\r\n\r\n"

Reader, Writer = asyncio.StreamReader, asyncio.StreamWriter


@dataclass
class App:
    """Responds at once; /hold waits for `may_go_on`, /large has a large body, /body reads the request's body."""

    port: int = 0
    may_go_on: asyncio.Event = field(default_factory=asyncio.Event)
    request_count: int = 0
    writers: list[Writer] = field(default_factory=list[Writer])  # a garbage-collected writer closes its connection

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        self.request_count += 1
        body = b"x" * 20_000_000 if scope["path"] == "/large" else b"ok"
        if scope["path"] == "/hold":
            await self.may_go_on.wait()
        while scope["path"] == "/body" and (await receive()).get("more_body"):
            pass
        length = str(len(body)).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
        await send({"type": "http.response.body", "body": body})

    async def connect(self, sent: bytes = b"") -> tuple[Reader, Writer]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(sent)
        self.writers.append(writer)
        return reader, writer


@asynccontextmanager
async def served(process_max: int = 100, address_max: int = 100) -> AsyncGenerator[App]:
    port = reserve(None)
    app, stopping = App(port.number), asyncio.Event()
    with port.released():
        limits = ConnectionLimits(process_max, address_max)
        serving = asyncio.create_task(serve_http(app, "127.0.0.1", port.number, stopping, limits))
        while True:
            try:
                _, writer = await app.connect()
                break
            except OSError:
                await asyncio.sleep(0.01)
        writer.close()
    try:
        async with asyncio.timeout(TIMEOUT_S * 2):
            yield app
    finally:
        app.may_go_on.set()
        stopping.set()
        async with asyncio.timeout(TIMEOUT_S):
            await serving
        port.close()


async def answered(reader: Reader) -> bytes:
    """The status line and the body of the next response."""
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    length = next(int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length"))
    return head.split(b"\r\n")[0] + b" " + await reader.readexactly(length)


async def is_ended(reader: Reader) -> bool:
    try:
        async with asyncio.timeout(TIMEOUT_S):
            return not await reader.read(65_536) or await is_ended(reader)
    except OSError:
        return True


def ended(reason: str) -> float:
    return REGISTRY.get_sample_value("http_connections_ended_total", {"reason": reason}) or 0.0


@pytest.mark.parametrize("limits", [(2, 100), (100, 2)])
async def test_a_new_connection_replaces_the_one_that_has_been_silent_longest(limits: tuple[int, int]) -> None:
    async with served(*limits) as app:
        silent, _ = await app.connect()
        half, _ = await app.connect(b"GET / HT")
        reader, _ = await app.connect(GET)
        assert await answered(reader) == b"HTTP/1.1 200 OK ok"
        assert await is_ended(silent)
        reader, _ = await app.connect(GET)
        assert await answered(reader) == b"HTTP/1.1 200 OK ok"
        assert await is_ended(half)


@pytest.mark.parametrize("limits", [(2, 100), (100, 2)])
async def test_busy_connections_are_kept_and_a_new_one_is_refused(limits: tuple[int, int]) -> None:
    async with served(*limits) as app:
        busy = [await app.connect(GET.replace(b"/ ", b"/hold ")) for _ in range(2)]
        await until(lambda: app.request_count == 2)
        reader, _ = await app.connect(GET)
        assert b"503 Service Unavailable" in await answered(reader)
        assert await is_ended(reader)
        app.may_go_on.set()
        for reader, _ in busy:
            assert await answered(reader) == b"HTTP/1.1 200 OK ok"


@pytest.mark.parametrize(
    ("state", "sent", "reason"),
    [
        (State.HEAD, b"", "head_timeout"),
        (State.HEAD, b"GET / HTTP/1.1\r\nhost:", "head_timeout"),
        (State.HEAD, b"PRI * HTTP/2.0\r\n\r\n", "head_timeout"),
        (State.BODY, POST, "body_timeout"),
        (State.BODY, POST.replace(b"/ ", b"/body ") + b"123", "body_timeout"),
        (State.IDLE, GET, "idle_timeout"),
        (State.ANSWER, GET.replace(b"/ ", b"/large "), "answer_timeout"),
    ],
)
async def test_a_connection_is_closed_after_the_time_out_of_its_state(
    state: State, sent: bytes, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(http_server.TIMEOUT_S, state, 0.2)
    before = ended(reason)
    async with served() as app:
        reader, writer = await app.connect(sent)
        await until(lambda: ended(reason) > before)
        assert await is_ended(reader)
        writer.close()


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nx: " + b"y" * HEAD_BYTES_MAX,
        b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * HEAD_BYTES_MAX,
        b"GET /" + b"y" * HEAD_BYTES_MAX,
        b"POST /body HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nx: " + b"y" * 20 * HEAD_BYTES_MAX,
    ],
)
async def test_endless_heads_and_trailers_close_the_connection(sent: bytes) -> None:
    before = ended("head_too_large")
    async with served() as app:
        reader, _ = await app.connect(sent + b"z" * 1_000)
        assert await is_ended(reader)
    assert ended("head_too_large") == before + 1


@pytest.mark.parametrize(
    "sent", [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0" * 9, b"\x16\x03\x01", b"no request\r\n\r\n"]
)
async def test_anything_but_http_1_is_answered_with_400(sent: bytes) -> None:
    async with served() as app:
        reader, _ = await app.connect(sent)
        assert (await reader.readline()) == b"HTTP/1.1 400 Bad Request\r\n"
        assert await is_ended(reader)
        assert app.request_count == 0


async def test_pipelined_requests_are_answered_in_order_and_limited_in_number() -> None:
    async with served() as app:
        reader, _ = await app.connect(GET * PIPELINED_REQUESTS_MAX)
        assert [await answered(reader) for _ in range(PIPELINED_REQUESTS_MAX)] == [
            b"HTTP/1.1 200 OK ok"
        ] * PIPELINED_REQUESTS_MAX
        reader, _ = await app.connect(GET.replace(b"/ ", b"/hold ") + GET * 1_000)
        assert await is_ended(reader)
        assert app.request_count == PIPELINED_REQUESTS_MAX + 1


async def test_a_connection_can_be_reused_after_an_unread_body() -> None:
    async with served() as app:
        reader, writer = await app.connect(POST)
        assert await answered(reader) == b"HTTP/1.1 200 OK ok"
        writer.write(b"0123456789" + GET)
        assert await answered(reader) == b"HTTP/1.1 200 OK ok"


async def test_stopping_answers_complete_requests_and_closes_other_connections() -> None:
    async with served() as app:
        busy, _ = await app.connect(GET.replace(b"/ ", b"/hold "))
        half, _ = await app.connect(POST)
        silent, _ = await app.connect()
        await until(lambda: app.request_count == 2)
    assert await answered(busy) == b"HTTP/1.1 200 OK ok"
    assert await is_ended(half)
    assert await is_ended(silent)


def test_addresses_of_one_ipv6_network_count_as_one() -> None:
    class Transport:
        def __init__(self, host: str) -> None:
            self._peer = (host, 1)

        def get_extra_info(self, _name: str) -> Any:
            return self._peer

    def of(host: str) -> str:
        transport: Any = Transport(host)
        return http_server._address_of(transport)

    assert of("2001:db8::1") == of("2001:db8::ffff:1") != of("2001:db8:0:1::1")
    assert of("::ffff:10.0.0.1") == of("10.0.0.1") == "10.0.0.1"
