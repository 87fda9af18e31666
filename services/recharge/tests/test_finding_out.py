"""`unknown` is found out, never guessed: whatever happens to the answer, one PaymentIntent and one charge."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from recharge_house import House

from recharge.charging.pace import Pace
from recharge.core.answers import Answer
from recharge.core.attempts import month_of
from recharge.stripe_gateway import StripeGateway

HANGING_LONGER_THAN_WE_WAIT_S = 5.0


class Stalling(StripeGateway):
    """A worker that sleeps between Stripe's answer and writing it down."""

    def __init__(self, real: StripeGateway) -> None:
        self._real = real
        self.is_answered = asyncio.Event()
        self.may_return = asyncio.Event()

    async def create(self, parameters: Mapping[str, Any], key: str) -> Answer:
        answer = await self._real.create(parameters, key)
        self.is_answered.set()
        await self.may_return.wait()
        return answer


async def _is_charged_once(house: House, tenant: str) -> None:
    assert len(await house.payment_intents(tenant)) == 1
    assert len(house.charges(tenant)) == 1
    assert (await house.attempt(tenant))["state"] == "charged"
    await house.credit(tenant)
    assert house.published.states(tenant)[-1] == "credited"


@pytest.mark.parametrize("kind", ["error_after", "drop_answer"])
async def test_an_answer_lost_after_the_charge_is_asked_for_again_under_the_same_key(house: House, kind: str) -> None:
    tenant = await house.tenant("pm_card_visa")
    house.fault(kind, path="/v1/payment_intents")
    await house.work()
    assert (await house.attempt(tenant))["state"] == "unknown"
    house.later(timedelta(minutes=1))
    await house.work()
    house.later(timedelta(minutes=1))
    await house.work()
    await _is_charged_once(house, tenant)
    tries = await house.rows("SELECT * FROM attempt_try")
    assert len(tries) == 1
    assert tries[0]["calls"] >= 2


async def test_a_time_out_is_asked_for_again_under_the_same_key(house: House) -> None:
    tenant = await house.tenant("pm_card_visa")
    house.fault("hang", path="/v1/payment_intents", seconds=HANGING_LONGER_THAN_WE_WAIT_S)
    await house.work()
    assert (await house.attempt(tenant))["state"] == "unknown"
    house.later(timedelta(minutes=1))
    await house.work()
    await _is_charged_once(house, tenant)


async def test_a_500_before_the_charge_repeated_is_final_and_looked_up_before_a_new_key(house: House) -> None:
    tenant = await house.tenant("pm_card_visa")
    house.fault("error_before", path="/v1/payment_intents")
    await house.work()
    house.later(timedelta(minutes=1))
    await house.work()  # the kept 500 again: final; listed, and not found
    assert (await house.attempt(tenant))["state"] == "unknown"
    assert await house.payment_intents(tenant) == []
    house.later(timedelta(minutes=11))
    await house.balance(tenant, 9)
    await house.work()  # listed again, not found: proven never made, and charged under the next key
    await _is_charged_once(house, tenant)
    keys = await house.rows("SELECT idempotency_key, outcome FROM attempt_try ORDER BY n")
    attempt = (await house.attempt(tenant))["attempt"]
    assert [(row["idempotency_key"], row["outcome"]) for row in keys] == [
        (f"{attempt}:1", "never_made"),
        (f"{attempt}:2", "succeeded"),
    ]


@pytest.mark.parametrize("kind", ["conflict", "rate_limit"])
async def test_409_and_429_are_the_same_try_under_the_same_key(house: House, kind: str) -> None:
    tenant = await house.tenant("pm_card_visa")
    house.fault(kind, path="/v1/payment_intents")
    await house.work()
    assert house.charges(tenant) == []
    house.later(timedelta(minutes=1))
    await house.work()
    await _is_charged_once(house, tenant)
    assert (await house.attempt(tenant))["n"] == 1


async def test_a_key_that_has_grown_old_is_looked_up_and_not_repeated(house: House) -> None:
    tenant = await house.tenant("pm_card_visa")
    house.fault("drop_answer", path="/v1/payment_intents")
    await house.work()
    house.later(timedelta(hours=21))
    await house.work()
    await _is_charged_once(house, tenant)
    assert (await house.rows("SELECT calls FROM attempt_try"))[0]["calls"] == 1


async def test_nothing_is_tried_anew_while_the_old_key_may_still_come_through(house: House) -> None:
    tenant = await house.tenant("pm_card_visa")
    house.fault("hang", path="/v1/payment_intents", seconds=HANGING_LONGER_THAN_WE_WAIT_S, commit="never")
    await house.work()
    house.later(timedelta(hours=21))
    await house.work()
    house.later(timedelta(minutes=11))
    await house.work()
    assert (await house.attempt(tenant))["state"] == "unknown"
    assert house.charges(tenant) == []
    house.later(timedelta(hours=3))
    await house.work()
    await _is_charged_once(house, tenant)
    assert (await house.attempt(tenant))["n"] == 2


async def test_a_webhook_before_the_answer_has_stripe_asked_at_once(house: House) -> None:
    tenant = await house.tenant("pm_card_visa")
    house.fault("drop_answer", path="/v1/payment_intents")
    await house.work()
    await house.webhooks(tenant, reverse=True, times=2)
    await house.work()
    assert (await house.attempt(tenant))["state"] == "charged"
    house.later(timedelta(minutes=1))
    await house.work()
    await _is_charged_once(house, tenant)


async def test_the_month_is_reserved_until_the_attempt_is_found_out(house: House) -> None:
    tenant = await house.tenant("pm_card_visa", monthly_cap_minor=5_000)
    house.fault("drop_answer", path="/v1/payment_intents")
    await house.work()
    attempt = await house.attempt(tenant)
    assert (attempt["state"], attempt["reserved_month"]) == ("unknown", month_of(house.now))


async def test_a_charge_found_out_in_a_later_month_counts_in_that_months_cap(house: House) -> None:
    tenant = await house.tenant("pm_card_visa", monthly_cap_minor=4_900)
    house.fault("error_before", path="/v1/payment_intents", kept=False)
    await house.work()
    await house.rows_changed("UPDATE attempt SET reserved_month = reserved_month - interval '1 month'")
    house.later(timedelta(minutes=1))
    await house.work()  # the key repeated: only now the card is charged
    assert (await house.attempt(tenant))["reserved_month"] == month_of(house.now)
    await house.credit(tenant)
    await house.balance(tenant, 10)
    await house.work()
    assert len(house.charges(tenant)) == 1
    assert await house.last_reason(tenant) == "cap_reached"


async def test_a_key_that_was_refused_unexecuted_grows_old_from_the_call_that_may_have_charged(house: House) -> None:
    tenant = await house.tenant("pm_card_visa")
    house.fault("rate_limit", path="/v1/payment_intents")
    await house.work()
    house.later(timedelta(hours=30))
    house.fault("error_before", path="/v1/payment_intents", kept=False)
    await house.work()
    assert (await house.attempt(tenant))["state"] == "unknown"
    house.later(timedelta(minutes=11))
    await house.work()
    await _is_charged_once(house, tenant)
    assert [row["calls"] for row in await house.rows("SELECT calls FROM attempt_try")] == [3]


async def test_a_call_whose_turn_comes_after_its_lease_is_not_made(house: House) -> None:
    class LateTurn(Pace):
        async def turn(self) -> None:
            house.offset += timedelta(hours=25)

    tenant = await house.tenant("pm_card_visa")
    in_time, house.steps = house.steps, replace(house.steps, pace=LateTurn(100))
    await house.steps.take(tenant, (await house.attempt(tenant))["attempt"])
    assert house.charges(tenant) == []
    house.steps = in_time
    for _ in range(2):
        await house.balance(tenant, 9)
        await house.work()
        house.later(timedelta(minutes=11))
    await _is_charged_once(house, tenant)


async def test_an_operator_error_opens_the_breaker_and_suspends_nobody(house: House) -> None:
    tenant, other = await house.tenant("pm_card_visa"), await house.tenant("pm_card_visa", available=100)
    steps, wrong = house.steps, house.gateway_with_key("sk_test_wrong")
    async with wrong as gateway:
        house.use(gateway)
        await house.work()
    house.steps = steps
    attempt = await house.attempt(tenant)
    assert (attempt["state"], house.charges(tenant)) == ("reserved", [])
    await house.balance(other, 10)
    assert await house.last_reason(other) == "breaker_open"
    assert await house.rows("SELECT 1 FROM profile WHERE suspended_at IS NOT NULL") == []
    house.later(timedelta(minutes=11))
    await house.work()
    await house.decide_again()
    await house.work()
    assert (len(house.charges(tenant)), len(house.charges(other))) == (1, 1)
    assert (await house.attempt(tenant))["n"] == 1


async def test_an_answer_to_an_older_call_changes_nothing_while_its_key_is_called_again(house: House) -> None:
    """The first worker is refused with 429 and stalls; the second repeats the key, and Stripe charges."""
    tenant = await house.tenant("pm_card_visa")
    attempt = (await house.attempt(tenant))["attempt"]
    first, second = Stalling(house.steps.gateway), Stalling(house.steps.gateway)
    house.fault("rate_limit", path="/v1/payment_intents")
    stalled = asyncio.create_task(replace(house.steps, gateway=first).take(tenant, attempt))
    async with asyncio.timeout(10):
        await first.is_answered.wait()
        house.later(timedelta(seconds=46))
        await house.refresh_progress()
        repeating = asyncio.create_task(replace(house.steps, gateway=second).take(tenant, attempt))
        await second.is_answered.wait()
    first.may_return.set()
    await stalled
    assert (await house.attempt(tenant))["state"] == "charging"
    second.may_return.set()
    await repeating
    await _is_charged_once(house, tenant)


async def _loses_an_answer(house: House, kind: str) -> str:
    tenant = await house.tenant("pm_card_visa")
    house.fault(kind, path="/v1/payment_intents", **({"kept": False} if kind == "error_before" else {}))
    await house.work()
    assert (await house.attempt(tenant))["state"] == "unknown"
    return tenant


async def test_a_key_that_may_have_charged_nothing_is_not_repeated_once_its_owner_refuses(house: House) -> None:
    tenant = await _loses_an_answer(house, "error_before")
    await house.settings(tenant, enabled=False)
    for later in (timedelta(minutes=1), timedelta(minutes=11), timedelta(hours=24)):
        assert (await house.attempt(tenant))["state"] == "unknown", "not proven yet"
        house.later(later)
        await house.work()
    attempt = await house.attempt(tenant)
    assert (attempt["state"], attempt["reason"], attempt["reserved_month"]) == ("canceled", "disabled", None)
    assert await house.payment_intents(tenant) == []
    assert [row["calls"] for row in await house.rows("SELECT calls FROM attempt_try")] == [1]


async def test_a_charge_made_before_its_owner_refused_is_found_and_kept(house: House) -> None:
    tenant = await _loses_an_answer(house, "drop_answer")
    await house.settings(tenant, enabled=False)
    house.later(timedelta(minutes=1))
    await house.work()
    await _is_charged_once(house, tenant)
    assert [row["calls"] for row in await house.rows("SELECT calls FROM attempt_try")] == [1]


async def test_a_declined_charge_in_doubt_is_cancelled_once_its_owner_refuses(house: House) -> None:
    tenant = await house.tenant("pm_card_chargeCustomerFail")
    house.fault("drop_answer", path="/v1/payment_intents")
    await house.work()
    await house.settings(tenant, enabled=False)
    house.later(timedelta(minutes=1))
    await house.work()
    house.later(timedelta(minutes=2))
    await house.work()
    assert (await house.attempt(tenant))["state"] == "canceled"
    assert [intent.status for intent in await house.payment_intents(tenant)] == ["canceled"]


async def test_a_key_in_doubt_waits_for_an_open_purchase_and_is_then_repeated(house: House) -> None:
    tenant = await _loses_an_answer(house, "error_before")
    await house.profile(tenant, open_purchases=("pur_1",))
    house.later(timedelta(minutes=1))
    await house.work()
    assert (await house.attempt(tenant))["state"] == "unknown"
    assert house.charges(tenant) == []
    await house.profile(tenant, open_purchases=())
    house.later(timedelta(minutes=1))
    await house.work()
    await _is_charged_once(house, tenant)


async def test_a_listed_payment_intent_of_another_integration_is_not_followed(house: House) -> None:
    """It names the attempt in its metadata, is cancelled, and was made by somebody without our signing key."""
    tenant = await house.tenant("pm_card_visa")
    house.fault("drop_answer", path="/v1/payment_intents")
    await house.work()
    attempt = await house.attempt(tenant)
    assert (attempt["state"], attempt["payment_intent"]) == ("unknown", None)
    customer = house.profiles[tenant].stripe_customer
    assert customer is not None
    forged = await house.stripe.v1.payment_intents.create_async(
        {
            "amount": attempt["amount_minor"], "currency": attempt["currency"], "customer": customer,
            "metadata": {"prepaid_credits": "v1", "attempt": attempt["attempt"], "tenant": tenant},
        }
    )  # fmt: skip
    await house.stripe.v1.payment_intents.cancel_async(forged.id)
    house.later(timedelta(hours=21))  # the key is not repeated any more: the customer's list is read
    for _ in range(3):
        await house.work()
        house.later(timedelta(minutes=11))
    found = await house.attempt(tenant)
    assert (found["state"], found["payment_intent"] == forged.id) == ("charged", False)
    assert len(house.charges(tenant)) == 1
    assert len(await house.attempts(tenant)) == 1


async def test_a_key_is_not_repeated_once_its_own_card_was_removed(house: House) -> None:
    """Another card is there, which is not what the key would charge."""
    tenant = await house.tenant("pm_card_visa", "pm_card_mastercard")
    house.fault("hang", path="/v1/payment_intents", seconds=HANGING_LONGER_THAN_WE_WAIT_S, commit="never")
    await house.work()
    attempt = await house.attempt(tenant)
    assert attempt["state"] == "unknown"
    visa, mastercard = house.profiles[tenant].cards
    await house.profile(tenant, cards=(mastercard,), default_payment_method=mastercard.payment_method)
    house.later(timedelta(minutes=10))
    await house.work()
    first = (await house.attempts(tenant))[0]
    assert (first["reason"], first["canceling"]) == ("card_removed", True)
    assert [row["calls"] for row in await house.rows("SELECT calls FROM attempt_try")] == [1]
    assert visa.payment_method not in {charge["payment_method"] for charge in house.charges(tenant)}
