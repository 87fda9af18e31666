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
    """It does not expire unless told to: some are made when the tests are collected, minutes before they are used."""
    whole = {"sub": "user_1", "aud": "prepaid", "exp": 2**33, "tenant_id": "acme", "scope": "operator"}
    kept = {name: value for name, value in {**whole, **claims}.items() if value is not None}
    return jwt.encode(kept, secret, algorithm=algorithm, headers=headers)


async def refused(by: Authenticator, presented: str) -> Problem:
    with pytest.raises(Problem) as caught:
        await by.verify(presented)
    return caught.value


async def test_a_good_token_names_its_subject_tenant_and_scopes() -> None:
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
async def test_any_other_token_is_refused(presented: str) -> None:
    problem = await refused(authenticator(), presented)
    assert (problem.status, problem.code) == (401, "unauthorized")
    assert problem.headers == {"WWW-Authenticate": "Bearer"}


async def test_a_changed_claim_is_refused() -> None:
    head, body, signature = token().split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    claims["tenant_id"] = "other"
    changed = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    assert (await refused(authenticator(), f"{head}.{changed}.{signature}")).status == 401


async def test_the_issuer_is_checked_where_one_is_set() -> None:
    strict = authenticator(auth_issuer="https://issuer.example")
    assert (await strict.verify(token(iss="https://issuer.example"))).tenant == "acme"
    assert (await refused(strict, token(iss="https://other.example"))).status == 401
    assert (await refused(strict, token())).status == 401


async def test_a_token_without_a_tenant_has_none_of_its_own() -> None:
    principal = await authenticator().verify(token(tenant_id=None))
    with pytest.raises(Problem) as caught:
        _ = principal.own_tenant
    assert (caught.value.status, caught.value.code) == (403, "tenant_required")


@pytest.mark.parametrize("tenant", ["", 7, 0, True, False, ["acme"], {"id": "acme"}, 1.5])
async def test_a_tenant_id_that_is_no_text_is_refused_and_never_means_no_tenant(tenant: Any) -> None:
    presented = token(tenant_id=tenant, scope="credits:debit:any")
    problem = await refused(authenticator(), presented)
    assert (problem.status, problem.code) == (401, "unauthorized")


def test_a_tenant_id_of_null_is_refused_too() -> None:
    with pytest.raises(Problem, match="tenant_id"):
        principal_of({"sub": "user_1", "tenant_id": None, "scope": "credits:debit:any"})


@pytest.mark.parametrize("claims", [{"scope": ["operator"]}, {"scope": 7}, {"sub": 7}, {"sub": ["user_1"]}])
async def test_a_subject_or_scope_that_is_no_text_is_refused(claims: dict[str, Any]) -> None:
    with pytest.raises(Problem) as caught:
        principal_of({"sub": "user_1", "tenant_id": "acme", "scope": "operator", **claims})
    assert caught.value.status == 401


@pytest.mark.parametrize("tenant", ["a\0b", "a\nb", " acme", "a b", "müller", "\ud800", "x" * 201])
async def test_a_tenant_that_stripe_or_a_database_could_not_keep_as_it_is_is_refused(tenant: str) -> None:
    assert (await refused(authenticator(), token(tenant_id=tenant))).status == 401


@pytest.mark.parametrize("subject", ["", "a\0b", "a\nb", "\ud800", "x" * 256])
async def test_a_subject_that_could_not_be_written_down_is_refused(subject: str) -> None:
    assert (await refused(authenticator(), token(sub=subject))).status == 401


def test_exactly_one_source_of_keys_is_set() -> None:
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
    """An issuer's keys over real HTTP."""

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


async def test_an_issuers_keys_verify_its_tokens_and_no_others(
    jwks_url: str, rsa_key: rsa.RSAPrivateKey, ec_key: ec.EllipticCurvePrivateKey
) -> None:
    by = authenticator(auth_jwt_secret=None, auth_jwks_url=jwks_url)
    assert (await by.verify(token(rsa_key, "RS256", {"kid": "rsa"}))).subject == "user_1"
    assert (await by.verify(token(ec_key, "ES256", {"kid": "ec"}))).subject == "user_1"
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
        assert (await refused(by, presented)).status == 401


async def test_a_key_that_the_issuer_has_withdrawn_is_refused_after_the_next_fetch(
    jwks_url: str,
    rsa_key: rsa.RSAPrivateKey,
    ec_key: ec.EllipticCurvePrivateKey,
    jwks: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(jwks_module, "REFRESH_INTERVAL_S", 0.1)
    by = authenticator(auth_jwt_secret=None, auth_jwks_url=jwks_url)
    presented = token(rsa_key, "RS256", {"kid": "rsa"})
    assert (await by.verify(presented)).subject == "user_1"
    monkeypatch.setitem(jwks[0], "kid", "rsa-2")
    async with asyncio.timeout(10):
        while True:
            try:
                await by.verify(presented)
            except Problem as problem:
                assert problem.status == 401
                break
            await asyncio.sleep(0.01)
    assert (await by.verify(token(ec_key, "ES256", {"kid": "ec"}))).subject == "user_1"
    await by.close()


async def test_an_issuer_that_hangs_delays_no_known_key_and_an_unknown_one_once(
    rsa_key: rsa.RSAPrivateKey, jwks: list[dict[str, Any]]
) -> None:
    """Its first answer is right; every later request hangs."""
    asked = 0
    hanging = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await reader.readuntil(b"\r\n\r\n")
        if asked == 1:
            body = json.dumps({"keys": jwks}).encode()
            writer.write(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            await writer.drain()
        else:
            await hanging.wait()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    by = authenticator(auth_jwt_secret=None, auth_jwks_url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
    good = token(rsa_key, "RS256", {"kid": "rsa"})
    assert (await by.verify(good)).subject == "user_1"
    keys = by._keys
    assert keys is not None
    keys._fetch_started_at = -REFETCH_INTERVAL_S  # the issuer may be asked again
    began = time.monotonic()
    unknown = asyncio.gather(*(refused(by, token(rsa_key, "RS256", {"kid": f"unknown-{n}"})) for n in range(200)))
    await asyncio.sleep(0)
    for _ in range(20):
        assert (await by.verify(good)).subject == "user_1"
    assert time.monotonic() - began < 20 * UNKNOWN_KEY_WAIT_S / 4, "a known key waits for nobody"
    assert {problem.status for problem in await unknown} == {401}
    assert time.monotonic() - began < 200 * UNKNOWN_KEY_WAIT_S / 4, "they wait together"
    began = time.monotonic()
    for n in range(200):
        assert (await refused(by, token(rsa_key, "RS256", {"kid": f"unknown-{n}"}))).status == 401
    assert time.monotonic() - began < 200 * UNKNOWN_KEY_WAIT_S / 20, "what was not found is refused at once"
    assert asked == 2
    hanging.set()
    await by.close()
    server.close()
    await server.wait_closed()


async def test_keys_that_cannot_be_fetched_are_no_verdict(rsa_key: rsa.RSAPrivateKey) -> None:
    by = authenticator(auth_jwt_secret=None, auth_jwks_url="http://127.0.0.1:9/jwks.json")
    problem = await refused(by, token(rsa_key, "RS256", {"kid": "rsa"}))
    assert (problem.status, problem.code) == (503, "temporarily_unavailable")


def app() -> FastAPI:
    made = create_http_app("test", description="", readiness=Readiness())
    made.state.authenticator = authenticator()

    @made.get("/own")
    async def own(principal: Principal = Depends(requires(Scope.BILLING_READ, Scope.OPERATOR))) -> str:
        return principal.own_tenant

    return made


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
async def test_a_route_refuses_with_a_problem(header: str | None, status: int, code: str) -> None:
    async with AsyncClient(transport=ASGITransport(app()), base_url="http://test") as client:
        response = await client.get("/own", headers={"Authorization": header} if header else {})
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert response.headers["content-type"] == "application/problem+json"


async def test_a_route_lets_one_of_its_scopes_in() -> None:
    async with AsyncClient(transport=ASGITransport(app()), base_url="http://test") as client:
        response = await client.get("/own", headers={"Authorization": f"Bearer {token(scope='x operator')}"})
    assert (response.status_code, response.json()) == (200, "acme")
