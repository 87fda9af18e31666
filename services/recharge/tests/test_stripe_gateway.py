"""What counts as Stripe's answer: its own JSON about one object, and nothing that stands between it and us."""

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
class Between:
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
async def between() -> AsyncIterator[Between]:
    answering: list[Between] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await answering[0].answer(reader, writer)

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with open_stripe_gateway(
        stripe_settings(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", "sk_test_1")
    ) as gateway:
        answering.append(Between(gateway))
        yield answering[0]
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404])
@pytest.mark.parametrize("body", [PAGE, OF_A_PROXY, ""])
async def test_a_page_of_a_proxy_is_no_answer_of_stripe(between: Between, status: int, body: str) -> None:
    """A second PaymentIntent was made after a list's 404 came twice."""
    between.status, between.body = status, body
    for answer in (await between.listed(), await between.retrieved()):
        assert isinstance(answer, NoAnswer), answer
    assert len(between.asked) == 2


async def test_only_stripe_s_error_about_one_object_says_that_it_is_missing(between: Between) -> None:
    between.status, between.body = 404, MISSING
    assert await between.retrieved() == NotFound()
    assert isinstance(await between.listed(), NoAnswer), "a list names no object that could be missing"


async def test_a_refused_key_stays_the_operator_s_error(between: Between) -> None:
    between.status, between.body = 401, REFUSED
    for answer in (await between.listed(), await between.retrieved()):
        assert isinstance(answer, OperatorError)


@pytest.mark.parametrize("page", PAGES, ids=str)
async def test_what_is_not_stripes_is_no_answer(page: Page) -> None:
    """Neither missing, nor refused, nor an operator's error: nobody knows, and the same key comes again."""
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


async def test_an_object_of_the_other_mode_is_missing_in_this_one(between: Between) -> None:
    between.status = 404
    message = "No such payment_intent: 'pi_1'; a similar object exists in live mode, but a test mode key was used."
    error = {"type": "invalid_request_error", "code": "resource_missing", "message": message}
    between.body = json.dumps({"error": error})
    assert await between.retrieved() == NotFound()
