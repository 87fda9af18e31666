import asyncio
import base64
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from fastapi import Depends, FastAPI
from httpx import ASGITransport, AsyncClient
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from shared import jwks as jwks_module
from shared.auth import LEEWAY_S, Authenticator, Principal, Scope, mint_development_token, principal_of, requires
from shared.http import Readiness, create_http_app
from shared.jwks import REFETCH_INTERVAL_S, UNKNOWN_KEY_WAIT_S
from shared.problems import Problem
from shared.settings import AuthSettings, InvalidSettings

SECRET = "a-development-secret-of-32-characters"


def authenticator(**settings: Any) -> Authenticator:
    return Authenticator(AuthSettings(_env_file=None, **{"auth_jwt_secret": SECRET, **settings}))  # type: ignore[call-arg]


def token(secret: Any = SECRET, algorithm: str = "HS256", headers: dict[str, str] | None = None, **claims: Any) -> str:
    """A signed token. By default it does not expire, because some are created minutes before their test runs."""
    whole = {"sub": "user_1", "aud": "prepaid", "exp": 2**33, "tenant_id": "acme", "scope": "operator"}
    kept = {name: value for name, value in {**whole, **claims}.items() if value is not None}
    return jwt.encode(kept, secret, algorithm=algorithm, headers=headers)


async def rejection(verifier: Authenticator, presented: str) -> Problem:
    with pytest.raises(Problem) as caught:
        await verifier.verify(presented)
    return caught.value


async def test_a_valid_token_yields_its_subject_tenant_and_scopes() -> None:
    presented = mint_development_token(
        SECRET, subject="user_1", tenant="acme", scopes=(Scope.BILLING_READ, Scope.OPERATOR), expires_at=2**33
    )
    expected = Principal("user_1", "acme", frozenset({"billing:read", "operator"}))
    assert await authenticator().verify(presented) == expected


@pytest.mark.parametrize(
    "presented",
    [
        token(exp=int(time.time()) - LEEWAY_S - 5),
        token(exp=None),
        token(sub=None),
        token(aud="another-product"),
        token(aud=None),
        token(nbf=2**32),
        token(secret="another-secret-of-more-than-32-characters"),
        token(secret=SECRET * 2, algorithm="HS512"),
        token(secret=None, algorithm="none"),
        "",
        "rubbish",
        "a.b.c",
    ],
    ids=[
        "expired",
        "no exp",
        "no sub",
        "audience",
        "no audience",
        "nbf",
        "secret",
        "HS512",
        "none",
        "",
        "text",
        "dots",
    ],
)
async def test_an_invalid_token_is_rejected_with_401(presented: str) -> None:
    problem = await rejection(authenticator(), presented)
    assert (problem.status, problem.code) == (401, "unauthorized")
    assert problem.headers == {"WWW-Authenticate": "Bearer"}


async def test_a_token_with_a_changed_claim_is_rejected() -> None:
    head, body, signature = token().split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    claims["tenant_id"] = "other"
    changed = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    assert (await rejection(authenticator(), f"{head}.{changed}.{signature}")).status == 401


async def test_the_issuer_is_verified_if_one_is_configured() -> None:
    strict = authenticator(auth_issuer="https://issuer.example")
    assert (await strict.verify(token(iss="https://issuer.example"))).tenant == "acme"
    assert (await rejection(strict, token(iss="https://other.example"))).status == 401
    assert (await rejection(strict, token())).status == 401


async def test_own_tenant_of_a_token_without_a_tenant_is_a_403() -> None:
    principal = await authenticator().verify(token(tenant_id=None))
    with pytest.raises(Problem) as caught:
        _ = principal.own_tenant
    assert (caught.value.status, caught.value.code) == (403, "tenant_required")


@pytest.mark.parametrize("tenant", ["", 7, 0, True, False, ["acme"], {"id": "acme"}, 1.5])
async def test_a_tenant_id_that_is_not_a_string_is_rejected_and_never_counts_as_absent(tenant: Any) -> None:
    presented = token(tenant_id=tenant, scope="credits:debit:any")
    problem = await rejection(authenticator(), presented)
    assert (problem.status, problem.code) == (401, "unauthorized")


def test_a_null_tenant_id_is_rejected() -> None:
    with pytest.raises(Problem, match="tenant_id"):
        principal_of({"sub": "user_1", "tenant_id": None, "scope": "credits:debit:any"})


@pytest.mark.parametrize("claims", [{"scope": ["operator"]}, {"scope": 7}, {"sub": 7}, {"sub": ["user_1"]}])
async def test_a_subject_or_scope_that_is_not_a_string_is_rejected(claims: dict[str, Any]) -> None:
    with pytest.raises(Problem) as caught:
        principal_of({"sub": "user_1", "tenant_id": "acme", "scope": "operator", **claims})
    assert caught.value.status == 401


@pytest.mark.parametrize("tenant", ["a\0b", "a\nb", " acme", "a b", "müller", "\ud800", "x" * 201])
async def test_a_tenant_id_that_stripe_or_postgresql_cannot_store_is_rejected(tenant: str) -> None:
    assert (await rejection(authenticator(), token(tenant_id=tenant))).status == 401


@pytest.mark.parametrize("subject", ["", "a\0b", "a\nb", "\ud800", "x" * 256])
async def test_a_subject_that_cannot_be_stored_is_rejected(subject: str) -> None:
    assert (await rejection(authenticator(), token(sub=subject))).status == 401


def test_settings_without_exactly_one_source_of_keys_are_invalid() -> None:
    for settings in ({"auth_jwt_secret": None}, {"auth_jwks_url": "http://127.0.0.1:9"}):
        with pytest.raises(InvalidSettings, match="AUTH_JWKS_URL"):
            authenticator(**settings)


@pytest.fixture(scope="module")
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture(scope="module")
def ec_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@pytest.fixture(scope="module")
def jwks(rsa_key: rsa.RSAPrivateKey, ec_key: ec.EllipticCurvePrivateKey) -> list[dict[str, Any]]:
    return [
        {**json.loads(RSAAlgorithm.to_jwk(rsa_key.public_key())), "kid": "rsa", "use": "sig", "alg": "RS256"},
        {**json.loads(ECAlgorithm.to_jwk(ec_key.public_key())), "kid": "ec", "use": "sig", "alg": "ES256"},
    ]


@pytest.fixture(scope="module")
def jwks_url(jwks: list[dict[str, Any]]) -> Iterator[str]:
    """The URL of an issuer's keys, served over HTTP."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"keys": jwks}).encode())

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/jwks.json"
    server.shutdown()
    thread.join(5)
    server.server_close()


async def test_only_tokens_signed_with_the_issuers_keys_are_valid(
    jwks_url: str, rsa_key: rsa.RSAPrivateKey, ec_key: ec.EllipticCurvePrivateKey
) -> None:
    verifier = authenticator(auth_jwt_secret=None, auth_jwks_url=jwks_url)
    assert (await verifier.verify(token(rsa_key, "RS256", {"kid": "rsa"}))).subject == "user_1"
    assert (await verifier.verify(token(ec_key, "ES256", {"kid": "ec"}))).subject == "user_1"
    another = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    for presented in (
        token(another, "RS256", {"kid": "rsa"}),
        token(rsa_key, "RS256", {"kid": "unknown"}),
        token(rsa_key, "RS256"),
        token(SECRET, "HS256", {"kid": "rsa"}),
        token(None, "none", {"kid": "rsa"}),
        token(rsa_key, "RS256", {"kid": "ec"}),
        token(ec_key, "ES256", {"kid": "rsa"}),
    ):
        assert (await rejection(verifier, presented)).status == 401


async def test_a_withdrawn_key_is_rejected_after_the_next_fetch(
    jwks_url: str,
    rsa_key: rsa.RSAPrivateKey,
    ec_key: ec.EllipticCurvePrivateKey,
    jwks: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(jwks_module, "REFRESH_INTERVAL_S", 0.1)
    verifier = authenticator(auth_jwt_secret=None, auth_jwks_url=jwks_url)
    presented = token(rsa_key, "RS256", {"kid": "rsa"})
    assert (await verifier.verify(presented)).subject == "user_1"
    monkeypatch.setitem(jwks[0], "kid", "rsa-2")
    async with asyncio.timeout(10):
        while True:
            try:
                await verifier.verify(presented)
            except Problem as problem:
                assert problem.status == 401
                break
            await asyncio.sleep(0.01)
    assert (await verifier.verify(token(ec_key, "ES256", {"kid": "ec"}))).subject == "user_1"
    await verifier.close()


async def test_a_hanging_issuer_delays_unknown_keys_once_and_known_keys_never(
    rsa_key: rsa.RSAPrivateKey, jwks: list[dict[str, Any]]
) -> None:
    """The issuer answers the first request; every later request hangs."""
    request_count = 0
    hanging = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal request_count
        request_count += 1
        await reader.readuntil(b"\r\n\r\n")
        if request_count == 1:
            body = json.dumps({"keys": jwks}).encode()
            writer.write(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            await writer.drain()
        else:
            await hanging.wait()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    verifier = authenticator(
        auth_jwt_secret=None, auth_jwks_url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    )
    good = token(rsa_key, "RS256", {"kid": "rsa"})
    assert (await verifier.verify(good)).subject == "user_1"
    keys = verifier._keys
    assert keys is not None
    keys._fetch_started_at = -REFETCH_INTERVAL_S  # as if the interval between fetches were over
    began = time.monotonic()
    unknown = asyncio.gather(
        *(rejection(verifier, token(rsa_key, "RS256", {"kid": f"unknown-{n}"})) for n in range(200))
    )
    await asyncio.sleep(0)
    for _ in range(20):
        assert (await verifier.verify(good)).subject == "user_1"
    assert time.monotonic() - began < 20 * UNKNOWN_KEY_WAIT_S / 4, "a known key is used without waiting"
    assert {problem.status for problem in await unknown} == {401}
    assert time.monotonic() - began < 200 * UNKNOWN_KEY_WAIT_S / 4, "they wait for the same fetch"
    began = time.monotonic()
    for n in range(200):
        assert (await rejection(verifier, token(rsa_key, "RS256", {"kid": f"unknown-{n}"}))).status == 401
    assert time.monotonic() - began < 200 * UNKNOWN_KEY_WAIT_S / 20, (
        "a key that was not found is rejected without a fetch"
    )
    assert request_count == 2
    hanging.set()
    await verifier.close()
    server.close()
    await server.wait_closed()


async def test_a_token_is_answered_with_503_while_keys_cannot_be_fetched(rsa_key: rsa.RSAPrivateKey) -> None:
    verifier = authenticator(auth_jwt_secret=None, auth_jwks_url="http://127.0.0.1:9/jwks.json")
    problem = await rejection(verifier, token(rsa_key, "RS256", {"kid": "rsa"}))
    assert (problem.status, problem.code) == (503, "temporarily_unavailable")


def app() -> FastAPI:
    test_app = create_http_app("test", description="", readiness=Readiness())
    test_app.state.authenticator = authenticator()

    @test_app.get("/own")
    async def own(principal: Principal = Depends(requires(Scope.BILLING_READ, Scope.OPERATOR))) -> str:
        return principal.own_tenant

    return test_app


@pytest.mark.parametrize(
    ("header", "status", "code"),
    [
        (None, 401, "unauthorized"),
        ("Basic dXNlcjpwYXNz", 401, "unauthorized"),
        ("Bearer rubbish", 401, "unauthorized"),
        (f"Bearer {token(scope='credits:debit')}", 403, "scope_missing"),
        (f"Bearer {token(scope='operator', tenant_id=None)}", 403, "tenant_required"),
    ],
)
async def test_a_route_answers_an_unauthorized_request_with_a_problem(
    header: str | None, status: int, code: str
) -> None:
    async with AsyncClient(transport=ASGITransport(app()), base_url="http://test") as client:
        response = await client.get("/own", headers={"Authorization": header} if header else {})
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert response.headers["content-type"] == "application/problem+json"


async def test_a_route_accepts_a_token_with_one_of_its_scopes() -> None:
    async with AsyncClient(transport=ASGITransport(app()), base_url="http://test") as client:
        response = await client.get("/own", headers={"Authorization": f"Bearer {token(scope='x operator')}"})
    assert (response.status_code, response.json()) == (200, "acme")
