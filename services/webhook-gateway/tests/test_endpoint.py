"""The ASGI endpoint alone, for what a well-behaved HTTP client does not do."""

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest

from webhook_gateway import webhooks
from webhook_gateway.publisher import EventPublisher
from webhook_gateway.webhooks import Message, WebhookEndpoint


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


def call(caller: Caller, headers: list[tuple[bytes, bytes]] | None = None) -> Awaitable[None]:
    nobody: Any = object()  # nothing here gets as far as Kafka
    publisher: EventPublisher = nobody
    scope = {"type": "http", "method": "POST", "path": webhooks.PATH, "headers": headers or []}
    return WebhookEndpoint(publisher, secrets=[b"whsec_a"], livemode=False)(scope, caller.receive, caller.send)


async def test_a_body_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "BODY_TIMEOUT_S", 0.01)
    caller = Caller({"type": "http.request", "body": b"{", "more_body": True})
    await call(caller)
    assert caller.answers[0]["status"] == 408
    assert b"body_too_slow" in caller.answers[1]["body"]


@pytest.mark.parametrize("before", [[], [{"type": "http.request", "body": b"{", "more_body": True}]])
async def test_a_caller_that_hangs_up_gets_no_answer(before: list[Message]) -> None:
    caller = Caller(*before, {"type": "http.disconnect"})
    await call(caller)
    assert caller.answers == []


async def test_a_body_announced_too_large_is_refused_whatever_it_holds() -> None:
    caller = Caller({"type": "http.request", "body": b"{}"})
    await call(caller, [(b"content-length", b"1048577")])
    assert caller.answers[0]["status"] == 413


async def test_a_fault_of_ours_is_answered_500_and_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("inner detail")

    monkeypatch.setattr(webhooks, "verify", fail)
    caller = Caller({"type": "http.request", "body": b"{}"})
    await call(caller)
    assert caller.answers[0]["status"] == 500
    assert b"inner detail" not in caller.answers[1]["body"]
