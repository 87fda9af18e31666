"""Money that came in an attempt's name by another PaymentIntent than its own: it counts, and ends nothing by itself."""

from datetime import timedelta
from typing import Any

import pytest
from recharge_house import SIGNING_KEY, House

from recharge.handlers import on_entries
from shared.events import EntryPosted
from shared.signed_metadata import CreditOrder, sign


async def _copy(house: House, tenant: str, *, amount_minor: int | None = None) -> dict[str, Any]:
    """Somebody copies the attempt's signed order to a PaymentIntent of their own, and pays it. Returns its charge."""
    attempt = await house.attempt(tenant)
    order = CreditOrder(
        tenant=tenant, credits=attempt["credits"], amount_minor=attempt["amount_minor"], currency="usd",
        attempt=attempt["attempt"],
    )  # fmt: skip
    visa = await house.save_card(attempt["stripe_customer"], "pm_card_visa")
    paid = await house.stripe.v1.payment_intents.create_async(
        {
            "amount": amount_minor or attempt["amount_minor"], "currency": "usd",
            "customer": attempt["stripe_customer"], "payment_method": visa.payment_method, "confirm": True,
            "metadata": sign(order, SIGNING_KEY), "return_url": "https://example.com/billing",
        }
    )  # fmt: skip
    return next(charge for charge in house.charges(tenant) if charge["payment_intent"] == paid.id)


async def _others(house: House) -> list[tuple[int, bool]]:
    rows = await house.rows("SELECT amount_minor, is_credited FROM other_payment ORDER BY amount_minor")
    return [(row["amount_minor"], row["is_credited"]) for row in rows]


async def _statuses(house: House, tenant: str) -> list[str]:
    return sorted(intent.status for intent in await house.payment_intents(tenant))


async def _spent(house: House, tenant: str) -> int:
    """What counts in this month's cap, by the decision that another need leads to."""
    await house.settings(tenant, enabled=True)
    await house.balance(tenant, 9_999)
    await house.balance(tenant, -1)
    rows = await house.rows("SELECT spent_minor FROM decision WHERE tenant_id = :t ORDER BY id DESC LIMIT 1", t=tenant)
    return rows[0]["spent_minor"]


async def test_while_its_own_can_be_confirmed_it_is_cancelled_before_the_attempt_ends(house: House) -> None:
    tenant = await house.tenant("pm_card_authenticationRequired")
    await house.work()
    other = await _copy(house, tenant)
    await house.receive(on_entries, house.entry(tenant, charge=other))
    waiting = await house.attempt(tenant)
    assert (waiting["state"], waiting["canceling"], waiting["reason"]) == ("requires_action", True, "paid_otherwise")
    await house.work()
    assert (await house.attempt(tenant))["state"] == "canceled"
    assert await _statuses(house, tenant) == ["canceled", "succeeded"]
    assert await _others(house) == [(4_500, True)]
    assert await _spent(house, tenant) == 4_500


async def test_where_its_own_was_paid_too_both_count(house: House) -> None:
    tenant = await house.tenant("pm_card_visa", monthly_cap_minor=9_100)
    await house.work()
    (own,) = house.charges(tenant)
    other = await _copy(house, tenant)
    await house.receive(on_entries, house.entry(tenant, charge=other))
    assert (await house.attempt(tenant))["state"] == "charged"
    await house.receive(on_entries, house.entry(tenant, charge=own))
    assert (await house.attempt(tenant))["state"] == "credited"
    assert await _spent(house, tenant) == 9_000
    await house.work()
    assert await house.last_reason(tenant) == "cap_reached"
    assert len(house.charges(tenant)) == 2


async def test_its_own_that_is_paid_while_it_is_being_cancelled_counts_too(house: House) -> None:
    tenant = await house.tenant("pm_card_authenticationRequired")
    await house.work()
    (own,) = await house.payment_intents(tenant)
    other = await _copy(house, tenant)
    await house.receive(on_entries, house.entry(tenant, charge=other))
    card = house.profiles[tenant].cards[0].payment_method
    await house.stripe.v1.payment_intents.confirm_async(
        own.id, {"payment_method": card, "return_url": "https://example.com/billing"}
    )
    house.simulator.post(f"/payment_intents/{own.id}/authenticate", succeeds=True)
    await house.work()
    assert (await house.attempt(tenant))["state"] == "charged"
    assert await _spent(house, tenant) == 9_000


@pytest.mark.parametrize("amount_minor", [700, 4_500])
async def test_a_payment_that_only_an_event_tells_of_counts(house: House, amount_minor: int) -> None:
    tenant = await house.tenant("pm_card_authenticationRequired")
    await house.work()
    await _copy(house, tenant, amount_minor=amount_minor)
    await house.webhooks(tenant, times=2)
    await house.work()
    assert (await house.attempt(tenant))["state"] == "canceled"
    assert await _statuses(house, tenant) == ["canceled", "succeeded"]
    assert await _others(house) == [(amount_minor, False)]
    await house.decide_again()  # its credits are on their way: no charge for the same need
    assert await house.last_reason(tenant) == "attempt_open"
    house.later(timedelta(minutes=10))
    assert await _spent(house, tenant) == amount_minor
    assert len(await house.attempts(tenant)) == 2


async def test_an_entry_of_another_amount_is_not_its_own(house: House) -> None:
    tenant = await house.tenant("pm_card_visa")
    house.fault("drop_answer", path="/v1/payment_intents")
    await house.work()
    own = house.entry(tenant)
    stray = own.model_copy(update={"payment_intent": "pi_stray", "reference": "pi_stray", "amount_minor": 700})
    await house.receive(on_entries, stray)
    await house.work()
    assert (await house.attempt(tenant))["state"] == "charged"
    assert await _others(house) == [(700, True)]
    await house.receive(on_entries, own)
    assert (await house.attempt(tenant))["state"] == "credited"


async def test_an_entry_that_is_faster_than_stripes_answer_ends_its_attempt_once_stripe_says_so(house: House) -> None:
    tenant = await house.tenant("pm_card_visa")
    house.fault("drop_answer", path="/v1/payment_intents")
    await house.work()
    await house.receive(on_entries, house.entry(tenant))
    assert (await house.attempt(tenant))["state"] == "unknown"
    await house.work()
    ended = await house.attempt(tenant)
    assert (ended["state"], ended["reason"], ended["canceling"]) == ("credited", None, False)
    assert await _others(house) == []
    assert len(house.charges(tenant)) == 1
    assert await _spent(house, tenant) == 4_500


async def test_a_stray_receipt_that_an_operator_credits_leaves_no_charge_open_behind(house: House) -> None:
    """The answer to its own charge was lost, and a receipt of as much money is credited to it."""
    tenant = await house.tenant("pm_card_authenticationRequired")
    house.fault("drop_answer", path="/v1/payment_intents")
    await house.work()
    other = await _copy(house, tenant)
    await house.receive(on_entries, house.entry(tenant, charge=other))
    await house.work()
    house.later(timedelta(minutes=2))
    await house.balance(tenant, 4_510)
    await house.work()
    assert (await house.attempt(tenant))["state"] == "canceled"
    assert await _statuses(house, tenant) == ["canceled", "succeeded"]
    assert await _others(house) == [(4_500, True)]


async def test_an_attempt_that_has_not_asked_yet_is_not_charged_once_another_paid(house: House) -> None:
    tenant = await house.tenant("pm_card_visa")
    other = await _copy(house, tenant)
    await house.receive(on_entries, house.entry(tenant, charge=other))
    await house.work()
    (ended, *_) = await house.attempts(tenant)
    assert (ended["state"], ended["reason"], ended["n"]) == ("canceled", "paid_otherwise", 0)


async def test_entries_of_both_in_one_batch_and_again_leave_the_same(house: House) -> None:
    tenant = await house.tenant("pm_card_visa")
    await house.work()
    own = house.entry(tenant)
    other = house.entry(tenant, charge=await _copy(house, tenant))
    receipt: EntryPosted = other.model_copy(update={"kind": "unapplied_receipt", "credits": 0, "reference": "r"})
    for batch in ([receipt, own], [own, receipt], [receipt]):
        await house.receive(on_entries, *batch)
    attempt = await house.attempt(tenant)
    assert (attempt["state"], attempt["receipt_unapplied"]) == ("credited", False)
    assert await _others(house) == [(4_500, False)]


async def test_a_need_is_charged_for_again_after_its_own_was_cancelled(house: House) -> None:
    tenant = await house.tenant("pm_card_authenticationRequired")
    await house.work()
    await house.receive(on_entries, house.entry(tenant, charge=await _copy(house, tenant)))
    await house.work()
    house.later(timedelta(minutes=11))
    await house.balance(tenant, 9)
    await house.work()
    assert [attempt["state"] for attempt in await house.attempts(tenant)] == ["canceled", "requires_action"]


async def test_a_receipt_counts_while_its_attempts_own_payment_is_not_known_and_once_it_is(house: House) -> None:
    tenant = await house.tenant("pm_card_visa", monthly_cap_minor=20_000)
    house.fault("drop_answer", path="/v1/payment_intents")
    await house.work()
    copy = await _copy(house, tenant)
    receipt: EntryPosted = house.entry(tenant, charge=copy).model_copy(
        update={"kind": "unapplied_receipt", "credits": 0, "reference": "r"}
    )
    await house.receive(on_entries, receipt)
    assert await _others(house) == [(4_500, False)]
    house.later(timedelta(minutes=5))
    await house.work()
    attempt = await house.attempt(tenant)
    assert attempt["payment_intent"] not in (None, copy["payment_intent"])
    assert await _others(house) == [(4_500, False)], "it is another one's, and counts beside its own"


async def test_a_receipt_that_is_its_own_is_counted_once(house: House) -> None:
    tenant = await house.tenant("pm_card_visa")
    house.fault("drop_answer", path="/v1/payment_intents")
    await house.work()
    own: EntryPosted = house.entry(tenant).model_copy(
        update={"kind": "unapplied_receipt", "credits": 0, "reference": "r"}
    )
    await house.receive(on_entries, own)
    assert await _others(house) == [(4_500, False)]
    house.later(timedelta(minutes=5))
    await house.work()
    attempt = await house.attempt(tenant)
    assert (attempt["state"], attempt["payment_intent"]) == ("charged", own.payment_intent)
    assert await _others(house) == []
