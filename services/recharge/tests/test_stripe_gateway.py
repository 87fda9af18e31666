"""What counts as Stripe's answer: its own JSON about one object, and nothing of a proxy."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest

from embedded.testing import stripe_settings
from recharge.core.answers import Answer, NoAnswer, NotFound, OperatorError, Refused
from recharge.stripe_gateway import StripeGateway, open_stripe_gateway
from stripe_simulator.proxies import PAGES, Page, proxy

PAGE = "<html><body>No such page.</body></html>"
MISSING = json.dumps({"error": {"type": "invalid_request_error", "code": "resource_missing", "message": "No such x"}})
OF_A_PROXY = json.dumps({"error": {"message": "no route"}})
REFUSED = json.dumps({"error": {"type": "invalid_request_error", "message": "Invalid API Key provided"}})


@dataclass(slots=True)
class FakeEndpoint:
    """Answers every request as it is told, as a proxy before Stripe or Stripe itself would."""

    gateway: StripeGateway
    status: int = 200
    body: str = "{}"
    asked: list[str] = field(default_factory=list[str])

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.asked.append(head.split(" ")[1])
        body = self.body.encode()
        writer.write(f"HTTP/1.1 {self.status} X\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode())
        writer.write(body)
        await writer.drain()
        writer.close()

    async def listed(self) -> Answer:
        return await self.gateway.find("cus_1", datetime(2026, 9, 1, tzinfo=UTC), lambda _view: True)

    async def retrieved(self) -> Answer:
        return await self.gateway.retrieve("pi_1")


@pytest.fixture
async def endpoint() -> AsyncIterator[FakeEndpoint]:
    answering: list[FakeEndpoint] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await answering[0].answer(reader, writer)

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with open_stripe_gateway(
        stripe_settings(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", "sk_test_1")
    ) as gateway:
        answering.append(FakeEndpoint(gateway))
        yield answering[0]
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404])
@pytest.mark.parametrize("body", [PAGE, OF_A_PROXY, ""])
async def test_a_response_of_a_proxy_is_no_answer(endpoint: FakeEndpoint, status: int, body: str) -> None:
    """A second PaymentIntent was made after a list's 404 came twice."""
    endpoint.status, endpoint.body = status, body
    for answer in (await endpoint.listed(), await endpoint.retrieved()):
        assert isinstance(answer, NoAnswer), answer
    assert len(endpoint.asked) == 2


async def test_only_a_404_of_stripe_about_one_object_is_not_found(endpoint: FakeEndpoint) -> None:
    endpoint.status, endpoint.body = 404, MISSING
    assert await endpoint.retrieved() == NotFound()
    assert isinstance(await endpoint.listed(), NoAnswer), "a list names no object that could be missing"


async def test_a_refused_api_key_is_an_operator_error(endpoint: FakeEndpoint) -> None:
    endpoint.status, endpoint.body = 401, REFUSED
    for answer in (await endpoint.listed(), await endpoint.retrieved()):
        assert isinstance(answer, OperatorError)


@pytest.mark.parametrize("page", PAGES, ids=str)
async def test_a_response_that_is_not_stripes_is_no_answer(page: Page) -> None:
    """Neither `NotFound`, `Refused` nor `OperatorError`: the call may have been executed, and the key is repeated."""
    refused = Refused("error")
    with proxy(page) as url:
        async with open_stripe_gateway(stripe_settings(url, "sk_test_x")) as gateway:
            answers = [
                await gateway.create({"amount": 100, "currency": "usd"}, "key"),
                await gateway.confirm("pi_1", {}, "key"),
                await gateway.retrieve("pi_1"),
                await gateway.cancel("pi_1"),
                await gateway.find("cus_1", datetime(2026, 9, 1, tzinfo=UTC), lambda _view: True),
            ]
            explain_refusal = await gateway.explain(refused, "pm_1", "cus_1")
    assert {type(each) for each in answers} == {NoAnswer}, answers
    assert explain_refusal == refused


async def test_an_object_of_the_other_mode_is_not_found(endpoint: FakeEndpoint) -> None:
    endpoint.status = 404
    message = "No such payment_intent: 'pi_1'; a similar object exists in live mode, but a test mode key was used."
    error = {"type": "invalid_request_error", "code": "resource_missing", "message": message}
    endpoint.body = json.dumps({"error": error})
    assert await endpoint.retrieved() == NotFound()
