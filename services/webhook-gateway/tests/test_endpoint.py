"""The ASGI endpoint alone, with requests that a well-behaved HTTP client does not send."""

import asyncio
import time
from collections.abc import Coroutine
from typing import Any

import pytest

from load.webhooks import signature
from shared.http import SMALL_BODY_BYTES
from webhook_gateway.api import webhooks
from webhook_gateway.api.webhooks import Message, WebhookEndpoint
from webhook_gateway.publisher import EventPublisher


class Caller:
    """Sends the given messages, then nothing more; keeps the answers."""

    def __init__(self, *messages: Message) -> None:
        self._messages = list(messages)
        self.answers: list[Message] = []

    async def receive(self) -> Message:
        if not self._messages:
            await asyncio.Event().wait()
        return self._messages.pop(0)

    async def send(self, message: Message) -> None:
        self.answers.append(message)


def make_endpoint() -> WebhookEndpoint:
    unused: Any = object()  # no test here publishes
    publisher: EventPublisher = unused
    return WebhookEndpoint(publisher, secrets=[b"whsec_a"], livemode=False)


def call(
    caller: Caller, headers: list[tuple[bytes, bytes]] | None = None, endpoint: WebhookEndpoint | None = None
) -> Coroutine[Any, Any, None]:
    """A webhook with these headers, or with one that claims to be signed."""
    claimed = [(b"stripe-signature", signature(b"", "whsec_a").encode())]
    headers = claimed if headers is None else headers
    scope = {"type": "http", "method": "POST", "path": webhooks.PATH, "headers": headers}
    return (endpoint or make_endpoint())(scope, caller.receive, caller.send)


async def test_a_body_that_never_ends_is_answered_408(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "BODY_TIMEOUT_S", 0.01)
    caller = Caller({"type": "http.request", "body": b"{", "more_body": True})
    await call(caller)
    assert caller.answers[0]["status"] == 408
    assert b"body_too_slow" in caller.answers[1]["body"]


@pytest.mark.parametrize("before", [[], [{"type": "http.request", "body": b"{", "more_body": True}]])
async def test_a_caller_that_disconnects_gets_no_answer(before: list[Message]) -> None:
    caller = Caller(*before, {"type": "http.disconnect"})
    await call(caller)
    assert caller.answers == []


@pytest.mark.parametrize(
    "header",
    [None, b"t=1,v1=00", b"v1=00", pytest.param(signature(b"", "whsec_a", at=time.time() - 600).encode(), id="old")],
)
async def test_the_body_is_not_read_when_the_signature_header_is_invalid(header: bytes | None) -> None:
    caller = Caller()  # has no body to read
    await call(caller, [] if header is None else [(b"stripe-signature", header)])
    assert caller.answers[0]["status"] == 400


async def test_a_content_length_above_the_limit_is_answered_413() -> None:
    caller = Caller({"type": "http.request", "body": b"{}"})
    await call(caller, [(b"content-length", b"1048577")])
    assert caller.answers[0]["status"] == 413


async def test_an_internal_error_is_answered_500_without_details(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("inner detail")

    monkeypatch.setattr(webhooks, "verify", fail)
    caller = Caller({"type": "http.request", "body": b"{}"})
    await call(caller)
    assert caller.answers[0]["status"] == 500
    assert b"inner detail" not in caller.answers[1]["body"]


async def test_unfinished_bodies_are_limited_in_memory_and_small_ones_are_still_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(webhooks, "LARGE_BODIES_BYTES_MAX", 3_000)
    part: Message = {"type": "http.request", "body": b" " * (SMALL_BODY_BYTES + 1_000), "more_body": True}
    endpoint = make_endpoint()
    slow = [Caller(part) for _ in range(3)]
    tasks = [asyncio.create_task(call(caller, endpoint=endpoint)) for caller in slow]
    await asyncio.sleep(0)
    one_more, small = Caller(part), Caller({"type": "http.request", "body": b"{}"})
    await call(one_more, endpoint=endpoint)
    await call(small, endpoint=endpoint)
    assert (one_more.answers[0]["status"], small.answers[0]["status"]) == (503, 400)
    assert [caller.answers for caller in slow] == [[], [], []]
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    after = Caller({**part, "more_body": False})
    await call(after, endpoint=endpoint)
    assert after.answers[0]["status"] == 400  # the body was read; its signature is wrong
