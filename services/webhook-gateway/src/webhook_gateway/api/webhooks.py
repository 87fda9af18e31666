"""POST /api/stripe/webhooks: the hot path, plain ASGI.

read the body ─▶ verify the signature ─▶ parse the event ─▶ publish ─▶ 200 after Kafka's acknowledgement

An untrusted request is answered 4xx, and one that cannot be published 503. Stripe repeats both for up to three days.
The backfill finds the events that Stripe has given up on.
"""

import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from shared.clock import utc_now
from shared.http import BODY_BYTES_MAX, BodiesInMemory
from shared.logs import get_logger
from shared.problems import Problem, problem_response
from shared.stripe_events import MalformedEvent, is_of_own_account, parse_event
from shared.trace import current_traceparent, new_traceparent
from webhook_gateway import metrics
from webhook_gateway.core.records import is_taken, record_of
from webhook_gateway.core.signature import SignatureRejected, read_header, verify
from webhook_gateway.deadlines import Deadlines
from webhook_gateway.publisher import EventPublisher, NotPublished

PATH = "/api/stripe/webhooks"
#: From the request's head to the last byte of its body.
BODY_TIMEOUT_S = 10.0
RETRY_AFTER_S = 5
#: Stripe's events are a few kB. The signature covers the body, so bodies of unverified callers must be read. Together,
#: and beyond a small part of each, they may take this much memory.
LARGE_BODIES_BYTES_MAX = 64 * 1024 * 1024

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_BODY = b'{"received":true}'
_ACCEPTED_START: Message = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"application/json"), (b"content-length", str(len(_BODY)).encode())],
}
_ACCEPTED_BODY: Message = {"type": "http.response.body", "body": _BODY}


class ClientGone(Exception):
    """The caller disconnected before it had sent the body."""


class WebhookEndpoint:
    """The ASGI endpoint. `secrets` are all that are valid now; events of the other mode than `livemode` are refused."""

    def __init__(self, publisher: EventPublisher, *, secrets: Sequence[bytes], livemode: bool) -> None:
        self._publisher = publisher
        self._secrets = tuple(secrets)
        self._livemode = livemode
        self._deadlines = Deadlines()
        self._log = get_logger().bind()  # bound once: get_logger's proxy looks its methods up anew each time
        self.in_flight = 0
        self._bodies = BodiesInMemory(LARGE_BODIES_BYTES_MAX)
        metrics.webhooks_in_flight.set_function(lambda: self.in_flight)

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        self.in_flight += 1
        try:
            await self._take(scope, receive)
        except Problem as problem:
            metrics.webhooks.labels(problem.code).inc()
            if problem.status != 405:
                self._log.warning("webhook_refused", code=problem.code, detail=problem.detail)
            await problem_response(problem)(scope, receive, send)
        except ClientGone:
            metrics.webhooks.labels("client_gone").inc()
        except Exception as error:  # a bug: Stripe sends the webhook again, and the log says why
            metrics.webhooks.labels("internal_error").inc()
            self._log.error("webhook_failed", exc_info=error)
            await problem_response(
                Problem(500, "internal_error", "This is a fault of ours; it is logged. Send it again later.")
            )(scope, receive, send)
        else:
            await send(_ACCEPTED_START)
            await send(_ACCEPTED_BODY)
        finally:
            self.in_flight -= 1
            metrics.webhook_seconds.observe(time.perf_counter() - started)

    async def _take(self, scope: dict[str, Any], receive: Receive) -> None:
        """Returns once the event is published or need not be; raises `Problem` or `ClientGone`."""
        if scope["method"] != "POST":
            raise Problem(405, "method_not_allowed", "Webhooks are sent with POST.", {"Allow": "POST"})
        signature: bytes | None = None
        for name, value in scope["headers"]:
            if name == b"stripe-signature":
                signature = value
            elif name == b"content-length" and _announced(value) > BODY_BYTES_MAX:
                raise _too_large()
        try:
            claim = read_header(signature, time.time())
        except SignatureRejected as rejected:  # without reading the body
            raise Problem(400, rejected.code, rejected.detail) from None
        try:
            with self._deadlines.limit(BODY_TIMEOUT_S):
                body = await self._read_body(receive)
        except TimeoutError:
            raise Problem(408, "body_too_slow", f"The body did not arrive within {BODY_TIMEOUT_S:g} s.") from None
        try:
            verify(claim, body, self._secrets)
            event = parse_event(body)
        except SignatureRejected as rejected:
            raise Problem(400, rejected.code, rejected.detail) from None
        except MalformedEvent:
            raise Problem(400, "not_an_event", "The body is not a Stripe event. Send Stripe's own bytes.") from None
        if not is_of_own_account(event):
            metrics.webhooks_of_other_accounts.inc()
            return
        if event.livemode is not self._livemode:
            wanted, came = ("live", "test") if self._livemode else ("test", "live")
            raise Problem(
                400,
                "livemode_mismatch",
                f"This gateway takes {wanted} events, this is a {came} one. See STRIPE_LIVEMODE.",
            )
        if not is_taken(event):
            metrics.webhooks_not_taken.inc()
            return
        traceparent = new_traceparent()  # the trace begins here: Stripe sends none
        current_traceparent.set(traceparent)
        record = record_of(event, body, origin="webhook", received_at=utc_now(), traceparent=traceparent)
        try:
            await self._publisher.publish(record)
        except NotPublished as reason:
            raise Problem(503, reason.code, reason.detail, {"Retry-After": str(RETRY_AFTER_S)}) from None
        metrics.webhooks_published.inc()
        self._log.debug("webhook_published", event_id=event.id, type=event.type)

    async def _read_body(self, receive: Receive) -> bytes:
        """The whole body. Raises `Problem`: 413 above the body limit, 503 above the memory limit of all bodies."""
        parts: list[bytes] = []
        bytes_read = 0
        bytes_held = 0
        try:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                part: bytes = message.get("body", b"")
                parts.append(part)
                bytes_read += len(part)
                if bytes_read > BODY_BYTES_MAX:
                    raise _too_large()
                bytes_held = self._bodies.hold(bytes_held, bytes_read)
                if not message.get("more_body", False):
                    return b"".join(parts)
        finally:
            self._bodies.release(bytes_held)


def _announced(content_length: bytes) -> int:
    return int(content_length) if content_length.isdigit() and len(content_length) < 20 else 0


def _too_large() -> Problem:
    return Problem(413, "body_too_large", f"The body is larger than {BODY_BYTES_MAX} bytes.")
