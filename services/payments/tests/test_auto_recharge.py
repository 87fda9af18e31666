"""Settings and consent of automatic recharge, `trigger-now`, balance and history."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.database import tenant_transaction
from shared.events import EXAMPLES, AttemptChanged, BalanceChanged, EntryPosted, RechargeRequested, decode
from stripe_simulator.testing import RunningSimulator

Call = Callable[..., Any]
SETTINGS = "/api/credits/auto-recharge"
TRIGGER = "/api/credits/auto-recharge/trigger-now"
WANTED = {
    "enabled": True,
    "thresholdCredits": 500,
    "amountMinor": 5000,
    "currency": "usd",
    "monthlyCapMinor": 20000,
    "consent": {"textVersion": "2026-01"},
}


def problem(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["code"]


async def test_enabling_records_who_consented_to_which_text_when_and_on_which_terms(call: Call, rows: Call) -> None:
    assert (await call("acme", "GET", SETTINGS)).json()["enabled"] is False
    saved = (await call("acme", "PUT", SETTINGS, WANTED)).json()
    assert (saved["enabled"], saved["consent"]["givenBy"]) == (True, "user-of-acme")
    assert (await call("acme", "GET", SETTINGS)).json() == saved
    consent = (await rows("SELECT * FROM consent"))[0]
    assert (consent.text_version, consent.given_by, consent.terms["monthly_cap_minor"]) == (
        "2026-01",
        "user-of-acme",
        20000,
    )


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"consent": None}, (422, "consent_required")),
        ({"amountMinor": 20001}, (422, "amount_over_cap")),
        ({"amountMinor": 49}, (422, "amount_below_minimum")),
        ({"amountMinor": 999}, (422, "no_package_fits")),
        ({"currency": "chf"}, (422, "no_package_fits")),
        ({"thresholdCredits": -1}, (422, "invalid_request")),
        ({"credits": 5}, (422, "invalid_request")),
    ],
)
async def test_invalid_settings_are_refused_and_change_nothing(
    call: Call, rows: Call, change: dict[str, Any], expected: tuple[int, str]
) -> None:
    assert problem(await call("acme", "PUT", SETTINGS, WANTED | change)) == expected
    assert await rows("SELECT 1 FROM auto_recharge UNION ALL SELECT 1 FROM consent") == []


async def test_disabling_needs_no_consent_and_enabling_again_does(call: Call, rows: Call) -> None:
    await call("acme", "PUT", SETTINGS, WANTED)
    stopped = await call("acme", "PUT", SETTINGS, WANTED | {"enabled": False, "consent": None})
    assert (stopped.json()["enabled"], stopped.json()["consent"]["textVersion"]) == (False, "2026-01")
    again = await call("acme", "PUT", SETTINGS, WANTED | {"consent": None})
    assert problem(again) == (422, "consent_required")
    await call("acme", "PUT", SETTINGS, WANTED | {"consent": {"textVersion": "2026-02"}})
    consents = await rows("SELECT text_version FROM consent ORDER BY given_at")
    assert [row.text_version for row in consents] == ["2026-01", "2026-02"]


async def test_a_purchase_never_changes_settings_or_consent(
    call: Call, buy: Call, deliver: Call, rows: Call, stripe_account: RunningSimulator, stripe_events: Call
) -> None:
    async def settings_and_consent() -> list[Any]:
        return [*await rows("SELECT * FROM auto_recharge"), *await rows("SELECT * FROM consent")]

    for tenant, wanted in (("acme", WANTED), ("stopped", WANTED | {"enabled": False, "consent": None})):
        assert (await call(tenant, "PUT", SETTINGS, wanted)).status_code == 200
    before = await settings_and_consent()
    for tenant in ("acme", "stopped", "new"):
        bought = await buy(tenant, packageId="scale", saveCard=True)
        client = stripe_account.client()
        client.v1.payment_intents.confirm(bought["paymentIntentId"], {"payment_method": "pm_card_visa"})
    await deliver(stripe_events())
    assert await settings_and_consent() == before
    assert len((await call("new", "GET", "/api/stripe/payment-methods")).json()["paymentMethods"]) == 1
    assert (await call("new", "GET", SETTINGS)).json()["enabled"] is False


@pytest.mark.parametrize("role", ["api_engine", "worker_engine"])
@pytest.mark.parametrize("statement", ["UPDATE consent SET given_by = 'x'", "DELETE FROM consent"])
async def test_no_role_of_the_running_service_can_change_consent(
    call: Call, request: pytest.FixtureRequest, role: str, statement: str
) -> None:
    await call("acme", "PUT", SETTINGS, WANTED)
    engine: AsyncEngine = request.getfixturevalue(role)
    with pytest.raises(DBAPIError, match="permission denied"):
        async with tenant_transaction(engine, "acme") as connection:
            await connection.execute(text(statement))


async def test_trigger_now_publishes_one_request_that_expires_after_ten_minutes(
    call: Call, save_card: Call, rows: Call
) -> None:
    assert problem(await call("acme", "POST", TRIGGER)) == (400, "idempotency_key_required")
    assert problem(await call("acme", "POST", TRIGGER, key="k")) == (409, "auto_recharge_not_set")
    await call("acme", "PUT", SETTINGS, WANTED)
    assert problem(await call("acme", "POST", TRIGGER, key="k")) == (409, "no_default_card")
    saved = await save_card("acme")
    assert problem(await call("acme", "POST", TRIGGER, key="k")) == (409, "no_default_card"), (
        "a saved card is not chosen by itself"
    )
    await call("acme", "POST", f"/api/stripe/payment-methods/{saved}/default")
    asked = await call("acme", "POST", TRIGGER, key="k")
    assert asked.status_code == 202
    assert (await call("acme", "POST", TRIGGER, key="k")).json() == asked.json()
    values = await rows("SELECT value FROM outbox WHERE topic = 'payments.recharge-requested'")
    event = decode(bytes(values[0].value), RechargeRequested)
    assert len(values) == 1 and event is not None
    assert (event.request, event.expires_at - event.requested_at) == (asked.json()["requestId"], timedelta(minutes=10))


async def test_trigger_now_is_refused_while_an_attempt_is_under_way(call: Call, save_card: Call, consume: Call) -> None:
    await save_card("acme")
    await call("acme", "PUT", SETTINGS, WANTED)
    await consume(EXAMPLES[AttemptChanged].model_copy(update={"state": "unknown"}))
    assert problem(await call("acme", "POST", TRIGGER, key="k")) == (409, "recharge_under_way")


async def test_the_newest_version_of_balance_and_attempt_is_shown_in_any_order(call: Call, consume: Call) -> None:
    balance, attempt = EXAMPLES[BalanceChanged], EXAMPLES[AttemptChanged]
    assert (await call("acme", "GET", "/api/credits/balance")).json()["version"] == 0
    await consume(balance.model_copy(update={"version": 9, "available": 900}))
    await consume(balance.model_copy(update={"version": 8}), balance.model_copy(update={"version": 7}))
    assert (await call("acme", "GET", "/api/credits/balance")).json()["available"] == 900
    await consume(
        attempt.model_copy(update={"version": 5, "state": "credited"}),
        attempt.model_copy(update={"version": 4, "state": "charged"}),
    )
    await consume(attempt.model_copy(update={"version": 3, "state": "charging"}))
    items = (await call("acme", "GET", "/api/credits/history")).json()["items"]
    assert [(item["kind"], item["state"]) for item in items] == [("attempt", "credited")]


async def test_history_pages_have_no_gaps_or_repetitions(call: Call, buy: Call, consume: Call) -> None:
    entry, attempt = EXAMPLES[EntryPosted], EXAMPLES[AttemptChanged]
    entries = [entry.model_copy(update={"reference": f"pi_{number}"}) for number in range(7)]
    attempts = [attempt.model_copy(update={"attempt": f"att_{number}"}) for number in range(5)]
    await consume(*entries, *entries, *attempts)
    for _ in range(3):
        await buy("acme", packageId="starter")
    await buy("other", packageId="starter")
    found: list[tuple[str, str]] = []
    cursor: str | None = ""
    while cursor is not None:
        path = "/api/credits/history?limit=4" + (f"&cursor={cursor}" if cursor else "")
        page = (await call("acme", "GET", path)).json()
        assert len(page["items"]) <= 4
        found += [(item["at"], f"{item['kind']} {item['id']}") for item in page["items"]]
        cursor = page["nextCursor"]
    assert len(found) == len(set(found)) == 15
    assert [at for at, _ in found] == sorted((at for at, _ in found), reverse=True)
    assert problem(await call("acme", "GET", "/api/credits/history?cursor=nonsense")) == (422, "invalid_cursor")
