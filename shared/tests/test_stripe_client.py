"""The configuration of Stripe's SDK, and pagination, against a real HTTP server with fixed responses."""

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import pytest
import stripe
from pydantic import SecretStr

from shared.settings import StripeSettings
from shared.stripe_client import NotAList, TooManyPages, list_pages, open_stripe_client, within
from shared.stripe_events import STRIPE_API_VERSION

KEY = "sk_test_0123456789abcdef"
TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Request:
    """A request that the server has received."""

    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]

    @staticmethod
    def of(head: str) -> "Request":
        first, *lines = head.split("\r\n")
        url = urlsplit(first.split(" ")[1])
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        return Request(url.path, {name: values[0] for name, values in parse_qs(url.query).items()}, headers)


@dataclass
class FixedServer:
    """An HTTP server that responds to the n-th request with the n-th of `responses`: a status and a JSON value."""

    responses: Sequence[tuple[int, Any]] = ()
    requests: list[Request] = field(default_factory=list[Request])
    url: str = ""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.requests.append(Request.of((await reader.readuntil(b"\r\n\r\n")).decode()))
        status, value = self.responses[min(len(self.requests), len(self.responses)) - 1]
        body = json.dumps(value).encode()
        head = f"HTTP/1.1 {status} Fixed\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        writer.write(f"{head}Stripe-Should-Retry: true\r\nConnection: close\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()


@asynccontextmanager
async def serving(*responses: tuple[int, Any]) -> AsyncGenerator[FixedServer]:
    fixed = FixedServer(responses)
    server = await asyncio.start_server(fixed.handle, "127.0.0.1", 0)
    fixed.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        async with asyncio.timeout(TIMEOUT_S):
            yield fixed
    finally:
        server.close()
        await server.wait_closed()


def settings(api_base: str) -> StripeSettings:
    made: Any = StripeSettings
    return made(_env_file=None, stripe_secret_key=SecretStr(KEY), stripe_api_base=api_base)


def page(*ids: str, has_more: bool) -> tuple[int, Any]:
    return 200, {"object": "list", "data": [{"object": "refund", "id": each} for each in ids], "has_more": has_more}


async def listed(server: FixedServer, *, pages_max: int | None = None, **parameters: Any) -> list[list[Any]]:
    """Lists refunds. Returns the objects of each page."""
    async with open_stripe_client(settings(server.url)) as client:

        async def list_page(parameters: Mapping[str, Any]) -> stripe.StripeObject:
            return await client.v1.refunds.list_async(cast(Any, parameters))

        pages = list_pages(list_page, parameters, pages_max=pages_max)
        return [list(objects) async for objects in pages]


def ids_of(pages: list[list[Any]]) -> list[list[str]]:
    return [[each["id"] for each in objects] for objects in pages]


async def test_a_list_is_read_to_its_last_page() -> None:
    responses = page("re_3", "re_2", has_more=True), page("re_1", has_more=True), page("re_0", has_more=False)
    async with serving(*responses) as server:
        pages = await listed(server, payment_intent="pi_1")
    assert ids_of(pages) == [["re_3", "re_2"], ["re_1"], ["re_0"]]
    assert [request.query for request in server.requests] == [
        {"payment_intent": "pi_1", "limit": "100"},
        {"payment_intent": "pi_1", "limit": "100", "starting_after": "re_2"},
        {"payment_intent": "pi_1", "limit": "100", "starting_after": "re_1"},
    ]


async def test_an_empty_list_has_one_empty_page() -> None:
    async with serving(page(has_more=False)) as server:
        assert await listed(server) == [[]]
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "value",
    [
        {"object": "refund", "id": "re_1"},
        {"data": [], "has_more": False},
        {"object": "list", "has_more": False},
        {"object": "list", "data": []},
        {"object": "list", "data": [], "has_more": None},
        {"object": "list", "data": [{"id": "re_1"}], "has_more": 1},
        {"object": "list", "data": {"id": "re_1"}, "has_more": False},
        {"object": "list", "data": None, "has_more": False},
        [{"object": "refund", "id": "re_1"}],
        {},
    ],
    ids=[
        *("another object", "no type", "no objects", "no has_more", "has_more is null", "has_more is a number"),
        *("objects are no list", "objects are null", "array", "empty"),
    ],
)
async def test_a_response_that_is_not_a_list_raises_not_a_list(value: Any) -> None:
    async with serving((200, value)) as server:
        with pytest.raises(NotAList):
            await listed(server)


@pytest.mark.parametrize(
    "objects", [[], [{"object": "refund"}], ["re_1"]], ids=["no object", "object without id", "text"]
)
async def test_a_page_that_has_more_but_ends_without_an_id_raises_not_a_list(objects: list[Any]) -> None:
    first = page("re_1", has_more=True)
    async with serving(first, (200, {"object": "list", "data": objects, "has_more": True})) as server:
        with pytest.raises(NotAList):
            await listed(server)
    assert len(server.requests) == 2


async def test_a_list_with_more_pages_than_allowed_raises_too_many_pages() -> None:
    async with serving(page("re_1", has_more=True)) as server:
        with pytest.raises(TooManyPages):
            await listed(server, pages_max=2)
    assert len(server.requests) == 2


async def test_a_list_with_exactly_as_many_pages_as_allowed_is_read() -> None:
    async with serving(page("re_1", has_more=True), page("re_0", has_more=False)) as server:
        assert ids_of(await listed(server, pages_max=2)) == [["re_1"], ["re_0"]]


async def test_an_error_while_listing_is_raised_as_it_is() -> None:
    error = {"error": {"type": "invalid_request_error", "message": "No such payment_intent"}}
    async with serving((400, error)) as server:
        with pytest.raises(stripe.InvalidRequestError, match="No such payment_intent"):
            await listed(server)


@pytest.mark.parametrize("slash", ["", "/"])
async def test_requests_go_to_the_configured_address_with_the_pinned_version_and_the_key(slash: str) -> None:
    async with (
        serving((200, {"object": "refund", "id": "re_1"})) as server,
        open_stripe_client(settings(server.url + slash)) as client,
    ):
        assert (await client.v1.refunds.retrieve_async("re_1")).id == "re_1"
    [request] = server.requests
    assert request.path == "/v1/refunds/re_1"
    assert request.headers["stripe-version"] == STRIPE_API_VERSION
    assert request.headers["authorization"] == f"Bearer {KEY}"


async def test_a_failed_request_is_not_retried_by_the_sdk() -> None:
    error = {"error": {"type": "api_error", "message": "Try again"}}
    async with serving((500, error)) as server, open_stripe_client(settings(server.url)) as client:
        with pytest.raises(stripe.APIError):
            await client.v1.refunds.retrieve_async("re_1")
    assert len(server.requests) == 1


async def test_a_response_that_arrives_too_slowly_is_a_time_out_of_the_whole_call() -> None:
    """Each part of the response arrives within the SDK's time-out, but the response never ends."""
    received = asyncio.Event()

    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        received.set()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n")
        try:
            while not writer.is_closing():
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.01)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(trickle, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        async with asyncio.timeout(TIMEOUT_S), open_stripe_client(settings(url), timeout_s=TIMEOUT_S) as client:
            with pytest.raises(TimeoutError):
                await within(0.3, client.v1.refunds.retrieve_async("re_1"))
    finally:
        server.close()
        await server.wait_closed()
    assert received.is_set()


async def test_a_call_that_ends_in_time_returns_its_result() -> None:
    async def answer() -> str:
        return "result"

    assert await within(TIMEOUT_S, answer()) == "result"
