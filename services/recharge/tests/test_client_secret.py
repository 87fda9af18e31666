"""A charge that waits for authentication: its owner gets the client secret, authenticates, and is credited."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from recharge_environment import SIGNING_KEY, RechargeEnvironment

from recharge.app import create_app
from recharge.core.answers import Answer, NoAnswer, NotFound, OperatorError, PaymentIntentSeen, RateLimited, Refused
from recharge.core.attempts import Attempt, State
from recharge.core.client_secret import Withheld, client_secret_in, waits_for_authentication
from recharge.settings import AppSettings
from recharge.stripe_gateway import open_stripe_gateway
from recharge.workflows.client_secrets import ANSWERED_WITHIN_S, AT_ONCE
from shared.auth import Scope, mint_development_token
from shared.database import make_engine
from shared.http import Readiness
from shared.signed_metadata import CreditOrder, sign
from shared.stripe_events import PaymentIntentView
from stripe_simulator.settings import Settings

JWT_SECRET = "a-secret-for-tests-0123456789-0123456789"
NOW = datetime(2026, 9, 15, 12, tzinfo=UTC)


@dataclass
class Browser:
    """A tenant's browser: our API with its token, and Stripe with the publishable key."""

    environment: RechargeEnvironment
    api: httpx.AsyncClient

    async def ask(self, tenant: str | None, attempt: str, *scopes: Scope) -> httpx.Response:
        token = mint_development_token(
            JWT_SECRET,
            subject="ada",
            tenant=tenant,
            scopes=scopes or (Scope.BILLING_WRITE,),
            expires_at=int(time.time()) + 60,
        )
        path = f"/api/recharge/attempts/{attempt}/client-secret"
        return await self.api.get(path, headers={"Authorization": f"Bearer {token}"})

    async def refusal(self, tenant: str, attempt: str) -> tuple[int, str]:
        answer = await self.ask(tenant, attempt)
        assert answer.headers["cache-control"] == "no-store"
        assert "_secret_" not in answer.text
        assert ("retry-after" in answer.headers) is (answer.status_code == 503)
        return answer.status_code, answer.json()["code"]

    async def confirm(self, said: dict[str, Any]) -> dict[str, Any]:
        """Confirms as Stripe.js does."""
        async with httpx.AsyncClient(base_url=self.environment.simulator.url) as stripe:
            answer = await stripe.post(
                f"/v1/payment_intents/{said['paymentIntent']}/confirm",
                data={"client_secret": said["clientSecret"], "payment_method": said["paymentMethod"]},
                headers={"Authorization": f"Bearer {Settings.publishable_key}"},
            )
        return answer.raise_for_status().json()

    def authenticate(self, payment_intent: str, *, succeeds: bool = True) -> None:
        self.environment.simulator.post(f"/payment_intents/{payment_intent}/authenticate", succeeds=succeeds)


@pytest.fixture
async def browser(environment: RechargeEnvironment) -> AsyncIterator[Browser]:
    settings = AppSettings(
        http_port=1,
        kafka_bootstrap_servers="unused",
        database_url_api=SecretStr(environment.database.api_url),
        database_url_worker=SecretStr(environment.database.worker_url),
        auth_jwt_secret=SecretStr(JWT_SECRET),
        stripe_secret_key=SecretStr(Settings.secret_key),
        stripe_api_base=environment.simulator.url,
        metadata_signing_keys=[SecretStr(SIGNING_KEY)],
    )
    engine = make_engine(environment.database.api_url, application_name="recharge-test-app")
    async with open_stripe_gateway(settings, timeout_s=ANSWERED_WITHIN_S) as gateway:
        app = create_app(settings, Readiness(), api_engine=engine, gateway=gateway)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://recharge") as client:
            yield Browser(environment, client)
    await engine.dispose()


async def _waiting(environment: RechargeEnvironment, **settings: Any) -> tuple[str, str]:
    """A tenant with an attempt that waits for authentication."""
    tenant = await environment.tenant("pm_card_authenticationRequired", **settings)
    await environment.work()
    attempt = await environment.attempt(tenant)
    assert (attempt["state"], attempt["action_required"]) == ("requires_action", "authenticate")
    return tenant, attempt["attempt"]


async def _is_suspended(environment: RechargeEnvironment, tenant: str) -> bool:
    rows = await environment.rows("SELECT suspended_at FROM profile WHERE tenant_id = :t", t=tenant)
    return rows[0]["suspended_at"] is not None


async def test_a_card_that_needs_authentication_is_authenticated_in_the_browser_and_credited(
    environment: RechargeEnvironment, browser: Browser
) -> None:
    tenant, name = await _waiting(environment)
    answer = await browser.ask(tenant, name)
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    said = answer.json()
    card = environment.profiles[tenant].cards[0].payment_method
    assert (said["attempt"], said["paymentMethod"], said["amountMinor"], said["currency"]) == (name, card, 4_500, "usd")
    assert (await browser.confirm(said))["status"] == "requires_action"
    assert (await browser.ask(tenant, name)).json() == said, "the page may be loaded again while the bank asks"
    browser.authenticate(said["paymentIntent"])
    await environment.webhooks(tenant, times=2)
    assert (await environment.attempt(tenant))["state"] == "charged"
    assert await browser.refusal(tenant, name) == (409, "attempt_not_waiting")
    await environment.credit(tenant)
    await environment.work()
    assert (await environment.attempt(tenant))["state"] == "credited"
    assert not await _is_suspended(environment, tenant)
    assert [charge["amount_minor"] for charge in environment.charges(tenant)] == [4_500]
    environment.advance_clock(timedelta(hours=80))
    await environment.work()
    assert (len(environment.charges(tenant)), len(await environment.attempts(tenant))) == (1, 1)


async def test_authentication_that_fails_may_be_tried_again(environment: RechargeEnvironment, browser: Browser) -> None:
    tenant, name = await _waiting(environment)
    said = (await browser.ask(tenant, name)).json()
    await browser.confirm(said)
    browser.authenticate(said["paymentIntent"], succeeds=False)
    await environment.webhooks(tenant)
    environment.advance_clock(timedelta(minutes=11))
    await environment.work()
    again = (await browser.ask(tenant, name)).json()
    await browser.confirm(again)
    browser.authenticate(again["paymentIntent"])
    await environment.webhooks(tenant, reverse=True)
    assert (await environment.attempt(tenant))["state"] == "charged"
    assert len(environment.charges(tenant)) == 1


async def test_what_was_authenticated_counts_in_the_cap(environment: RechargeEnvironment, browser: Browser) -> None:
    tenant, name = await _waiting(environment, monthly_cap_minor=4_900)
    said = (await browser.ask(tenant, name)).json()
    await browser.confirm(said)
    browser.authenticate(said["paymentIntent"])
    await environment.webhooks(tenant)
    await environment.credit(tenant)
    await environment.balance(tenant, 10)
    await environment.work()
    assert (await environment.last_reason(tenant), len(environment.charges(tenant))) == ("cap_reached", 1)


async def test_an_attempt_of_another_tenant_is_not_found(environment: RechargeEnvironment, browser: Browser) -> None:
    _tenant, name = await _waiting(environment)
    other = await environment.tenant("pm_card_visa")
    theirs, missing = await browser.ask(other, name), await browser.ask(other, "att_missing")
    assert theirs.status_code == missing.status_code == 404
    assert theirs.json() == missing.json()
    assert theirs.json()["code"] == "unknown_attempt"
    asked = [entry["path"] for entry in environment.simulator.get("/requests") if entry["method"] == "GET"]
    assert not [path for path in asked if path.startswith("/v1/payment_intents/pi_")]


@pytest.mark.parametrize("scope", [Scope.BILLING_READ, Scope.CREDITS_DEBIT, Scope.OPERATOR])
async def test_a_client_secret_requires_the_write_scope(
    environment: RechargeEnvironment, browser: Browser, scope: Scope
) -> None:
    tenant, name = await _waiting(environment)
    answer = await browser.ask(tenant, name, scope)
    assert (answer.status_code, answer.json()["code"]) == (403, "scope_missing")
    assert (await browser.ask(None, name)).status_code == 403
    assert (await browser.api.get(f"/api/recharge/attempts/{name}/client-secret")).status_code == 401


@pytest.mark.parametrize("name", ["%00", "att-1", "a" * 65])
async def test_an_invalid_attempt_id_is_rejected(browser: Browser, name: str) -> None:
    assert (await browser.ask("acme", name)).status_code == 422


@pytest.mark.parametrize("card", ["pm_card_visa", "pm_card_chargeCustomerFail"])
async def test_an_attempt_that_does_not_wait_for_authentication_has_no_secret(
    environment: RechargeEnvironment, browser: Browser, card: str
) -> None:
    tenant = await environment.tenant(card)
    name = (await environment.attempt(tenant))["attempt"]
    assert await browser.refusal(tenant, name) == (409, "attempt_not_waiting")
    await environment.work()
    assert (await environment.attempt(tenant))["state"] in ("charged", "retry_scheduled")
    assert await browser.refusal(tenant, name) == (409, "attempt_not_waiting")


async def test_an_attempt_that_is_given_up_has_no_secret(environment: RechargeEnvironment, browser: Browser) -> None:
    tenant, name = await _waiting(environment)
    await environment.settings(tenant, enabled=False)
    environment.fault("error_before", path="/v1/payment_intents/*/cancel", count=None)
    environment.advance_clock(timedelta(minutes=11))
    await environment.work()
    assert (await environment.attempt(tenant))["canceling"]
    assert await browser.refusal(tenant, name) == (409, "attempt_not_waiting")


@pytest.mark.parametrize("became", ["succeeded", "canceled"])
async def test_a_payment_intent_that_cannot_be_confirmed_any_more_has_no_secret(
    environment: RechargeEnvironment, browser: Browser, became: str
) -> None:
    """The event has not come yet."""
    tenant, name = await _waiting(environment)
    said = (await browser.ask(tenant, name)).json()
    if became == "canceled":
        await environment.stripe.v1.payment_intents.cancel_async(said["paymentIntent"])
    else:
        await browser.confirm(said)
        browser.authenticate(said["paymentIntent"])
    assert await browser.refusal(tenant, name) == (409, "payment_intent_not_confirmable")


@pytest.mark.parametrize("metadata", [{"sig": "v1:forged"}, {"credits": "1000000"}, {"tenant": "somebody"}])
async def test_the_secret_of_an_unproven_payment_intent_is_withheld(
    environment: RechargeEnvironment, browser: Browser, metadata: dict[str, str]
) -> None:
    tenant, name = await _waiting(environment)
    (intent,) = await environment.payment_intents(tenant)
    await environment.stripe.v1.payment_intents.update_async(intent.id, {"metadata": metadata})
    assert await browser.refusal(tenant, name) == (409, "payment_intent_not_proven")


@pytest.mark.parametrize("kind", ["error_before", "rate_limit", "drop_answer"])
async def test_without_an_answer_of_stripe_the_response_says_when_to_retry(
    environment: RechargeEnvironment, browser: Browser, kind: str
) -> None:
    tenant, name = await _waiting(environment)
    environment.fault(kind, method="GET", path="/v1/payment_intents/*")
    assert await browser.refusal(tenant, name) == (503, "stripe_unavailable")
    assert (await browser.ask(tenant, name)).status_code == 200


async def test_the_wait_for_stripe_and_the_number_of_waiting_requests_are_bounded(
    environment: RechargeEnvironment, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant, name = await _waiting(environment)
    monkeypatch.setattr("recharge.workflows.client_secrets.ANSWERED_WITHIN_S", 1.0)
    environment.fault("hang", method="GET", path="/v1/payment_intents/*", seconds=30, count=None)
    async with asyncio.timeout(5):
        refused = await asyncio.gather(*(browser.refusal(tenant, name) for _ in range(AT_ONCE + 2)))
    assert refused == [(503, "stripe_unavailable")] * (AT_ONCE + 2)
    environment.simulator.control.delete("/_sim/faults")
    assert (await browser.ask(tenant, name)).status_code == 200


async def test_the_secret_is_in_no_log_and_in_no_table(
    environment: RechargeEnvironment, browser: Browser, capfd: pytest.CaptureFixture[str]
) -> None:
    tenant, name = await _waiting(environment)
    said = (await browser.ask(tenant, name)).json()
    await browser.confirm(said)
    browser.authenticate(said["paymentIntent"])
    await environment.webhooks(tenant)
    await environment.work()
    written = capfd.readouterr()
    assert "client_secret_handed_out" in written.out + written.err
    assert said["clientSecret"] not in written.out + written.err
    assert said["paymentIntent"] in written.out + written.err
    assert "attempt" in await _tables_with(environment, said["paymentIntent"])
    assert await _tables_with(environment, said["clientSecret"]) == []
    assert all(said["clientSecret"].encode() not in event.value for event in environment.published.events)


async def _tables_with(environment: RechargeEnvironment, wanted: str) -> list[str]:
    """The tables that hold this text somewhere in a row."""
    tables = await environment.rows(
        "SELECT c.oid::regclass::text AS name FROM pg_class c WHERE c.relkind IN ('r', 'p') "
        "AND c.relnamespace = 'public'::regnamespace AND c.relname <> 'alembic_version'"
    )
    found: list[str] = []
    for name in (table["name"] for table in tables):
        if await environment.rows(f"SELECT 1 FROM {name} AS each WHERE strpos(each::text, :s) > 0", s=wanted):
            found.append(name)
    return found


# The decision

ATTEMPT = Attempt(
    tenant_id="acme", attempt="att_1", version=1, state=State.REQUIRES_ACTION, trigger="automatic", request=None,
    amount_minor=4_500, currency="usd", credits=1_000, package="medium", expires_in_days=None, limited_by_cap=False,
    stripe_customer="cus_1", profile_version=1, balance_available=10, created_at=NOW, changed_at=NOW, next_at=NOW,
    payment_intent="pi_1", n=1,
)  # fmt: skip
ORDER = CreditOrder(
    tenant="acme", credits=1_000, amount_minor=4_500, currency="usd", expires_in_days=None, attempt="att_1"
)
VIEW = PaymentIntentView(
    id="pi_1", status="requires_payment_method", amount_minor=4_500, amount_received_minor=0, currency="usd",
    customer="cus_1", payment_method=None, latest_charge=None, metadata=sign(ORDER, SIGNING_KEY), created=NOW,
    decline_code=None, advice_code=None, error_code=None, client_secret="pi_1_secret_x",
)  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (PaymentIntentSeen(VIEW), "pi_1_secret_x"),
        (PaymentIntentSeen(replace(VIEW, status="requires_action")), "pi_1_secret_x"),
        (PaymentIntentSeen(replace(VIEW, status="requires_confirmation")), "pi_1_secret_x"),
        (PaymentIntentSeen(replace(VIEW, status="processing")), Withheld.NOT_CONFIRMABLE),
        (PaymentIntentSeen(replace(VIEW, status="requires_capture")), Withheld.NOT_CONFIRMABLE),
        (PaymentIntentSeen(replace(VIEW, status="something_new")), Withheld.NOT_CONFIRMABLE),
        (PaymentIntentSeen(replace(VIEW, client_secret=None)), Withheld.NOT_CONFIRMABLE),
        (PaymentIntentSeen(replace(VIEW, id="pi_2")), Withheld.NOT_PROVEN),
        (PaymentIntentSeen(replace(VIEW, amount_minor=4_501)), Withheld.NOT_PROVEN),
        (PaymentIntentSeen(replace(VIEW, currency="eur")), Withheld.NOT_PROVEN),
        (PaymentIntentSeen(replace(VIEW, customer="cus_2")), Withheld.NOT_PROVEN),
        (PaymentIntentSeen(replace(VIEW, metadata=sign(ORDER, "another-key-0123456789"))), Withheld.NOT_PROVEN),
        (NotFound(), Withheld.NOT_CONFIRMABLE),
        (OperatorError(401, "expired"), Withheld.MISCONFIGURED),
        (Refused("error"), Withheld.MISCONFIGURED),
        (NoAnswer("time_out"), Withheld.UNAVAILABLE),
        (RateLimited(), Withheld.UNAVAILABLE),
    ],
)
def test_the_secret_is_returned_only_for_a_proven_payment_intent_that_can_be_confirmed(
    answer: Answer, said: str | Withheld
) -> None:
    assert client_secret_in(ATTEMPT, answer, [SIGNING_KEY]) == said


def test_stripe_is_asked_only_about_an_attempt_that_waits_for_authentication() -> None:
    assert waits_for_authentication(ATTEMPT)
    assert not waits_for_authentication(replace(ATTEMPT, canceling=True))
    assert not waits_for_authentication(replace(ATTEMPT, payment_intent=None))
    for state in set(State) - {State.REQUIRES_ACTION}:
        assert not waits_for_authentication(replace(ATTEMPT, state=state))


def test_the_repr_of_a_view_has_no_secret() -> None:
    assert "pi_1_secret_x" not in repr(PaymentIntentSeen(VIEW))
