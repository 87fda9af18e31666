"""Answers on the wire: Stripe's headers, and connections that break before the answer is complete."""

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from stripe_simulator.api.idempotency import Answer


def answer_response(
    answer: Answer, request_id: str, api_version: str, idempotency_key: str | None, *, replayed: bool
) -> Response:
    headers = {"Request-Id": request_id, "Stripe-Version": api_version}
    if idempotency_key is not None and idempotency_key.isascii() and len(idempotency_key) <= 255:
        headers["Idempotency-Key"] = idempotency_key
    if replayed:
        headers["Idempotent-Replayed"] = "true"
    if answer.status == 409:
        headers["Stripe-Should-Retry"] = "true"
    elif answer.status >= 500 and idempotency_key is not None:
        # The same key would only be answered the same again.
        headers["Stripe-Should-Retry"] = "false"
    if answer.status == 401:
        headers["WWW-Authenticate"] = 'Basic realm="Stripe"'
    return Response(answer.body, answer.status, headers, media_type="application/json")


class ConnectionCutOff(Exception):
    """Raised in the middle of an answer: the server can do nothing then but close the connection."""


class CutOffResponse(Response):
    """Begins an answer and breaks off, so that the caller can't know what became of its request."""

    def __init__(self, body: bytes) -> None:
        super().__init__(body, media_type="application/json")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": bytes(self.body[:1]), "more_body": True})
        raise ConnectionCutOff
