"""The baseline for debits over HTTP: the same server, middleware, JWT check and body models, and a constant answer.

Run as `python -m benchmarks.bare_debit_api PORT JWT_SECRET`.
"""

import asyncio
import sys

import uvloop
from fastapi import Request, Response
from pydantic import SecretStr

from ledger.api.debits import DebitBatchRequest, DebitRequest
from ledger.api.dependencies import Debitor
from shared.auth import Authenticator
from shared.http import Readiness, create_http_app, serve
from shared.settings import AuthSettings, ProcessSettings

ANSWER = (
    b'{"tenantId":"tenant-1","reference":"load-1","credits":1,"available":999999999,"balanceVersion":2,'
    b'"postedAt":"2026-09-01T12:00:00.000000Z"}'
)


async def _serve(port: int, secret: str) -> None:
    authenticator = Authenticator(AuthSettings(_env_file=None, auth_jwt_secret=SecretStr(secret)))  # pyright: ignore[reportCallIssue]
    app = create_http_app(
        "bare", description="", readiness=Readiness(), body_bytes_max=1024 * 1024, authenticator=authenticator
    )

    @app.post("/api/ledger/debits")
    async def debit(request: Request, principal: Debitor, body: DebitRequest) -> Response:
        return Response(ANSWER, media_type="application/json")

    @app.post("/api/ledger/debits/batch")
    async def batch(request: Request, principal: Debitor, body: DebitBatchRequest) -> Response:
        return Response(ANSWER, media_type="application/json")

    await serve(app, ProcessSettings(_env_file=None, http_port=port), asyncio.Event())  # pyright: ignore[reportCallIssue]


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1]), sys.argv[2]))
