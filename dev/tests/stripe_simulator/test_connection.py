"""The connection that webhooks are posted over: kept open, and opened anew when it has to be."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from stripe_simulator.testing import RunningSimulator, receive_webhooks
from stripe_simulator.webhooks.connection import PostConnection

Streams = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(handle: Streams) -> AsyncGenerator[str]:
    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook?x=1"


def answering(answer: bytes, *, then_close: bool = False) -> tuple[Streams, list[int]]:
    """A server that gives this answer to every request; and the number of requests of each connection."""
    requests: list[int] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(0)
        at = len(requests) - 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"POST /hook?x=1 HTTP/1.1\r\n")
                assert await reader.readexactly(2) == b"{}"
                requests[at] += 1
                writer.write(answer)
                await writer.drain()
                if then_close:
                    return
        except EOFError:
            return
        finally:
            writer.close()

    return handle, requests


@pytest.mark.parametrize(
    ("answer", "then_close", "connections"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", False, [3]),
        (b"HTTP/1.1 204 No Content\r\n\r\n", False, [3]),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nConnection: close\r\n\r\nok", False, [1, 1, 1]),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", True, [1, 1, 1]),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", False, [1, 1, 1]),
    ],
)
async def test_status_is_read_and_the_connection_kept_where_it_can_be(
    answer: bytes, then_close: bool, connections: list[int]
) -> None:
    handle, requests = answering(answer, then_close=then_close)
    connection = PostConnection()
    async with serving(handle) as url:
        for _ in range(3):
            assert await connection.post(url, {}, b"{}") in (200, 204)
        connection.close()
    assert requests == connections


@pytest.mark.parametrize("answer", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 two\r\n\r\n", b"x" * 100_000])
async def test_what_is_no_answer_is_an_error(answer: bytes) -> None:
    handle, _ = answering(answer, then_close=True)
    async with serving(handle) as url:
        with pytest.raises((OSError, EOFError, ValueError)):
            await PostConnection().post(url, {}, b"{}")


def test_endpoint_that_is_down_gets_its_webhooks_when_it_is_up(simulator: RunningSimulator) -> None:
    client = simulator.client()
    with receive_webhooks() as gone:
        pass
    endpoint = client.v1.webhook_endpoints.create({"url": gone.url, "enabled_events": ["customer.created"]})
    customer = client.v1.customers.create({})
    assert client.v1.events.list({"delivery_success": False}).data[0].pending_webhooks == 1
    with receive_webhooks() as up:
        client.v1.webhook_endpoints.update(endpoint.id, {"url": up.url})
        simulator.settle()
        assert [one.event(endpoint.secret or "").data.object["id"] for one in up.received] == [customer.id]
    attempts = simulator.get("/webhooks/attempts")
    assert attempts[0]["status"] is None
    assert attempts[-1]["status"] == 200
