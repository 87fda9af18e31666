"""The responses of every HTTP app: problems, limits on bodies, health."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

import pytest
from fastapi import Depends, FastAPI
from httpx import ASGITransport, AsyncClient
from pydantic import BaseModel, SecretStr
from sqlalchemy.exc import OperationalError

from shared import http
from shared.auth import Authenticator, Principal, authenticate, mint_development_token
from shared.http import SMALL_BODY_BYTES, BodiesInMemory, Readiness, create_http_app
from shared.problems import Problem
from shared.settings import AuthSettings

BODY_BYTES_MAX = 1_000
SECRET = "thirty-two-characters-or-a-few-more"


class Item(BaseModel):
    """A body."""

    name: str


@pytest.fixture
def readiness() -> Readiness:
    return Readiness()


@pytest.fixture
def app(readiness: Readiness) -> FastAPI:
    app = create_http_app("test", description="", readiness=readiness, body_bytes_max=BODY_BYTES_MAX)

    @app.post("/items")
    async def create(item: Item) -> str:
        return item.name

    @app.get("/items")
    async def items() -> list[str]:
        return []

    @app.get("/short")
    async def short() -> None:
        raise Problem(402, "insufficient_credits", "There are too few.", available=7)

    @app.get("/away")
    async def away() -> None:
        raise OperationalError("SELECT secret", None, ConnectionRefusedError())

    @app.get("/bug")
    async def bug() -> None:
        raise RuntimeError("inner detail")

    return app


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[AsyncClient]:
    transport = ASGITransport(app, raise_app_exceptions=False)
    async with AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/short", None, 402, "insufficient_credits"),
        ("GET", "/no/such", None, 404, "not_found"),
        ("PUT", "/items", b"{}", 405, "method_not_allowed"),
        ("POST", "/items", b"{}", 422, "invalid_request"),
        ("POST", "/items", b"{", 422, "invalid_request"),
        ("POST", "/items", b"\xff", 422, "invalid_request"),
        ("POST", "/items", b" " * (BODY_BYTES_MAX + 1), 413, "body_too_large"),
        ("GET", "/away", None, 503, "temporarily_unavailable"),
        ("GET", "/bug", None, 500, "internal_error"),
    ],
)
async def test_every_error_is_a_problem_with_a_stable_code_and_no_internal_details(
    client: AsyncClient, method: str, path: str, body: bytes | None, status: int, code: str
) -> None:
    response = await client.request(method, path, content=body, headers={"Content-Type": "application/json"})
    problem = response.json()
    assert response.headers["content-type"] == "application/problem+json"
    assert (response.status_code, problem["status"], problem["code"], problem["type"]) == (
        status, status, code, "about:blank",
    )  # fmt: skip
    assert problem["title"]
    assert problem["detail"]
    assert not any(inner in response.text for inner in ("inner detail", "SELECT", "Traceback"))


async def test_a_405_lists_all_methods_of_the_path(client: AsyncClient) -> None:
    assert (await client.put("/items")).headers["allow"] == "GET, POST"


async def test_a_problem_can_have_additional_members(client: AsyncClient) -> None:
    assert (await client.get("/short")).json()["available"] == 7


async def test_an_invalid_body_is_reported_by_field(client: AsyncClient) -> None:
    problem = (await client.post("/items", json={})).json()
    assert problem["errors"] == [{"field": "name", "message": "Field required"}]


async def test_an_unavailable_database_is_answered_with_retry_after(client: AsyncClient) -> None:
    assert (await client.get("/away")).headers["retry-after"] == "1"


async def test_a_body_without_content_length_is_rejected_at_the_limit(client: AsyncClient) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b" " * 500

    response = await client.post("/items", content=pieces(), headers={"Content-Type": "application/json"})
    assert (response.status_code, response.json()["code"]) == (413, "body_too_large")


async def test_a_body_that_does_not_arrive_in_time_is_rejected(
    client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stalls() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    monkeypatch.setattr(http, "BODY_TIMEOUT_S", 0.05)
    async with asyncio.timeout(5):
        response = await client.post("/items", content=stalls(), headers={"Content-Type": "application/json"})
    assert (response.status_code, response.json()["code"]) == (408, "body_too_slow")


async def test_the_body_of_an_unauthenticated_request_is_not_read(readiness: Readiness) -> None:
    settings = AuthSettings(_env_file=None, auth_jwt_secret=SecretStr(SECRET))  # pyright: ignore[reportCallIssue]
    app = create_http_app("test", description="", readiness=readiness, authenticator=Authenticator(settings))
    read: list[int] = []

    @app.post("/items")
    async def create(caller: Annotated[Principal, Depends(authenticate)], item: Item) -> str:
        return f"{caller.subject}: {item.name}"

    async def body() -> AsyncIterator[bytes]:
        read.append(1)
        yield b'{"name": "pen"}'

    token = mint_development_token(SECRET, subject="me", tenant="acme", scopes=(), expires_at=2**33)
    transport = ASGITransport(app)
    async with AsyncClient(transport=transport, base_url="http://test") as client:
        for authorization in ({}, {"Authorization": "Bearer x"}, {"Authorization": f"Basic {token}"}):
            headers = {"Content-Type": "application/json"} | authorization
            refused = await client.post("/items", content=body(), headers=headers)
            assert (refused.status_code, refused.json()["code"], read) == (401, "unauthorized", [])
            assert refused.headers["www-authenticate"] == "Bearer"
        taken = await client.post("/items", content=body(), headers=headers | {"Authorization": f"Bearer {token}"})
    assert (taken.status_code, taken.json(), read) == (200, "me: pen", [1])


async def test_large_bodies_together_use_no_more_memory_than_the_limit() -> None:
    bodies = BodiesInMemory(3_000)
    held = bodies.hold(0, SMALL_BODY_BYTES)
    assert held == 0, "small bodies do not count"
    held = bodies.hold(bodies.hold(held, SMALL_BODY_BYTES + 1_000), SMALL_BODY_BYTES + 3_000)
    with pytest.raises(Problem, match="Too many large bodies"):
        bodies.hold(0, SMALL_BODY_BYTES + 1)
    bodies.release(held)
    assert bodies.hold(0, SMALL_BODY_BYTES + 3_000) == 3_000


async def test_readyz_names_the_failing_checks(client: AsyncClient, readiness: Readiness) -> None:
    async def well() -> str | None:
        return None

    async def broken() -> str | None:
        raise ConnectionError

    async def says() -> str | None:
        return "has not joined"

    readiness.checks["well"] = well
    assert (await client.get("/readyz")).json() == {"status": "ready"}
    readiness.checks |= {"broken": broken, "consumer": says}
    response = await client.get("/readyz")
    assert (response.status_code, response.json()["code"]) == (503, "not_ready")
    assert response.json()["detail"] == "broken: ConnectionError; consumer: has not joined"
    assert (await client.get("/healthz")).status_code == 200


async def test_a_readiness_check_that_hangs_fails(
    client: AsyncClient, readiness: Readiness, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang() -> str | None:
        await asyncio.Event().wait()

    monkeypatch.setattr(http, "READY_CHECK_TIMEOUT_S", 0.01)
    readiness.checks["kafka"] = hang
    assert (await client.get("/readyz")).json()["detail"] == "kafka: TimeoutError"
