"""The API: a tenant reads why it was charged, and nothing of other tenants."""

import time
from collections.abc import AsyncIterator, Callable

import httpx
import pytest
from pydantic import SecretStr
from recharge_environment import SIGNING_KEY, RechargeEnvironment

from recharge.app import create_app
from recharge.settings import AppSettings
from recharge.stripe_gateway import open_stripe_gateway
from recharge.workflows.client_secrets import ANSWERED_WITHIN_S
from shared.auth import Scope, mint_development_token
from shared.database import make_engine
from shared.http import Readiness
from stripe_simulator.settings import Settings

SECRET = "a-secret-for-tests-0123456789-0123456789"


def _authorization(tenant: str | None, *scopes: Scope) -> dict[str, str]:
    token = mint_development_token(
        SECRET, subject="ada", tenant=tenant, scopes=scopes, expires_at=int(time.time()) + 60
    )
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture
async def client(environment: RechargeEnvironment) -> AsyncIterator[httpx.AsyncClient]:
    settings = AppSettings(
        http_port=1,
        kafka_bootstrap_servers="unused",
        database_url_api=SecretStr(environment.database.api_url),
        database_url_worker=SecretStr(environment.database.worker_url),
        auth_jwt_secret=SecretStr(SECRET),
        stripe_secret_key=SecretStr(Settings.secret_key),
        stripe_api_base=environment.simulator.url,
        metadata_signing_keys=[SecretStr(SIGNING_KEY)],
    )
    engine = make_engine(environment.database.api_url, application_name="recharge-test-app")
    async with open_stripe_gateway(settings, timeout_s=ANSWERED_WITHIN_S) as gateway:
        app = create_app(settings, Readiness(), api_engine=engine, gateway=gateway)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://recharge") as client:
            yield client
    await engine.dispose()


async def test_decisions_and_attempts_are_listed_newest_first_and_only_to_their_tenant(
    environment: RechargeEnvironment, client: httpx.AsyncClient
) -> None:
    mine, other = await environment.tenant("pm_card_visa", available=100), await environment.tenant("pm_card_visa")
    await environment.balance(mine, 10)
    await environment.work()
    reader = _authorization(mine, Scope.BILLING_READ)
    decisions = (await client.get("/api/recharge/decisions", headers=reader)).json()["decisions"]
    assert [(each["outcome"], each["reason"]) for each in decisions] == [
        ("charge", None),
        ("skip", "above_threshold"),
        ("skip", "balance_unknown"),
    ]
    first = (await client.get("/api/recharge/decisions?limit=1", headers=reader)).json()
    rest = await client.get(f"/api/recharge/decisions?limit=2&cursor={first['nextCursor']}", headers=reader)
    assert [each["id"] for each in first["decisions"] + rest.json()["decisions"]] == [each["id"] for each in decisions]
    attempts = (await client.get("/api/recharge/attempts", headers=reader)).json()["attempts"]
    assert [(each["state"], each["amountMinor"], each["tries"]) for each in attempts] == [("charged", 4_500, 1)]
    assert decisions[0]["attempt"] == attempts[0]["attempt"]
    others = (await client.get("/api/recharge/attempts", headers=_authorization(other, Scope.BILLING_READ))).json()
    assert attempts[0]["attempt"] not in [each["attempt"] for each in others["attempts"]]


async def test_the_status_shows_why_recharge_is_paused_and_what_would_lift_that(
    environment: RechargeEnvironment, client: httpx.AsyncClient
) -> None:
    tenant, other = await environment.tenant("pm_card_visa"), await environment.tenant("pm_card_visa", available=100)
    card = environment.profiles[tenant].cards[0].payment_method
    environment.simulator.put(f"/payment_methods/{card}/behaviour", decline_code="lost_card")
    await environment.work()

    async def status_of(name: str) -> dict[str, object]:
        answer = await client.get("/api/recharge/status", headers=_authorization(name, Scope.BILLING_READ))
        assert answer.status_code == 200
        return answer.json()

    stopped = await status_of(tenant)
    assert (stopped["state"], stopped["reason"], stopped["detail"]) == ("paused", "card_stopped", "lost_card")
    assert stopped["liftedBy"] == ["other_card", "enter_card_again", "pay_with_card"]
    assert (await status_of(other))["state"] == "waiting"
    nobody = {"state": "off", "reason": None, "detail": None, "since": None, "liftedBy": ["enable"], "attempt": None}
    assert await status_of("nobody") == nobody


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        (dict, 401, "unauthorized"),
        (lambda: _authorization("acme", Scope.BILLING_WRITE), 403, "scope_missing"),
        (lambda: _authorization(None, Scope.BILLING_READ), 403, "tenant_required"),
    ],
)
async def test_a_request_without_a_tenants_token_is_a_problem(
    client: httpx.AsyncClient, headers: Callable[[], dict[str, str]], status: int, code: str
) -> None:
    answer = await client.get("/api/recharge/decisions", headers=headers())
    assert (answer.status_code, answer.json()["code"]) == (status, code)


@pytest.mark.parametrize(
    "path",
    ["decisions?cursor=9223372036854775808", "decisions?cursor=-1", "attempts?cursor=%00", "attempts?cursor=%FF"],
)
async def test_an_invalid_cursor_is_rejected(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(f"/api/recharge/{path}", headers=_authorization("acme", Scope.BILLING_READ))
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
