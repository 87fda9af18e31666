import base64
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from fastapi import Depends, FastAPI
from httpx import ASGITransport, AsyncClient
from jwt import jwk_set_cache as jwks_module
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from shared.auth import LEEWAY_S, Authenticator, Principal, Scope, mint_development_token, requires
from shared.http import Readiness, create_http_app
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
    for tenant in (None, "", 7):
        principal = await authenticator().verify(token(tenant_id=tenant))
        with pytest.raises(Problem) as caught:
            _ = principal.own_tenant
        assert (caught.value.status, caught.value.code) == (403, "tenant_required")


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


async def test_a_key_that_the_issuer_has_withdrawn_verifies_no_longer_than_the_set_is_kept(
    jwks_url: str,
    rsa_key: rsa.RSAPrivateKey,
    ec_key: ec.EllipticCurvePrivateKey,
    jwks: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    by = authenticator(auth_jwt_secret=None, auth_jwks_url=jwks_url)
    presented = token(rsa_key, "RS256", {"kid": "rsa"})
    assert (await by.verify(presented)).subject == "user_1"
    monkeypatch.setattr(jwks_module, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + 301))
    monkeypatch.setitem(jwks[0], "kid", "rsa-2")
    assert (await refused(by, presented)).status == 401
    assert (await by.verify(token(ec_key, "ES256", {"kid": "ec"}))).subject == "user_1"


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
