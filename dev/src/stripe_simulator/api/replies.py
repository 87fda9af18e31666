"""Answers on the wire: Stripe's headers, and connections that break before the answer is complete."""

import os
import socket
from pathlib import Path

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
    """Raised in the middle of an answer, so that the server must close the connection."""


class CutOffResponse(Response):
    """Closes the connection instead of answering, so that the outcome is unknown to the caller."""

    def __init__(self, body: bytes) -> None:
        super().__init__(body, media_type="application/json")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        _shut_connection(scope.get("client"))
        # ASGI has no way to close a connection, and where its socket was not found this is the closest: half an answer.
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": bytes(self.body[:1]), "more_body": True})
        raise ConnectionCutOff


def _shut_connection(peer: tuple[str, int | str] | None) -> None:
    """Shut the TCP connection to this peer, found among the process's open files."""
    if peer is None:
        return
    for file in Path("/dev/fd").iterdir():
        try:
            descriptor = os.dup(int(file.name))
        except OSError:  # closed meanwhile, as the descriptor of the listing itself is
            continue
        try:
            connection = socket.socket(fileno=descriptor)
        except OSError:  # not a socket
            os.close(descriptor)
            continue
        with connection:
            if _is_connected_to(connection, peer):
                connection.shutdown(socket.SHUT_RDWR)
                return


def _is_connected_to(connection: socket.socket, peer: tuple[str, int | str]) -> bool:
    if connection.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    try:
        host, port = connection.getpeername()[:2]
        return (host, port) == (peer[0], int(peer[1]))  # granian gives the port as a string
    except OSError:  # listening, not connected
        return False
