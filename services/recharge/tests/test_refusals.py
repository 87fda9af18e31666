"""What Stripe refuses with 400 concerns one card, one customer or one order: the others are charged."""

import asyncio
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from itertools import permutations
from typing import Any

import pytest
from prometheus_client import REGISTRY
from recharge_house import CATALOG, House
from recharge_process import Workers, eventually
from sqlalchemy import text

from embedded.testing import stripe_settings
from recharge.core.answers import (
    Answer,
    CardUnusable,
    NoAnswer,
    NotFound,
    OperatorError,
    OrderRefused,
    RateLimited,
    Refused,
    ServerError,
)
from recharge.core.refusals import (
    EVERYTHING,
    REFUSED_TENANTS_MIN,
    REFUSED_WITHIN,
    CardSeen,
    CustomerSeen,
    OrderFact,
    Scope,
    Subject,
    explained,
    may_probe,
    refused_subject,
)
from recharge.handlers import on_packages
from recharge.repository.inputs import unfreeze
from recharge.stripe_gateway import StripeGateway, open_stripe_gateway
from stripe_simulator.settings import Settings
from stripe_simulator.testing import run_simulator

NOW = datetime(2026, 9, 15, 12, tzinfo=UTC)
SECONDS = timedelta(seconds=10)
INTENTS = "/v1/payment_intents"
EUROS = tuple(
    package.model_copy(update={"package": f"{package.package}_eur", "currency": "eur"}) for package in CATALOG
)


def _alerts(alert: str) -> float:
    return REGISTRY.get_sample_value("recharge_alerts_total", {"alert": alert}) or 0.0


def _refuse(house: House, **whom: Any) -> None:
    """Stripe answers every charge of these with 400 from now on."""
    house.fault("refuse", path=INTENTS, count=None, **whom)


def _refuse_tenant(house: House, tenant: str) -> None:
    _refuse(house, metadata={"tenant": tenant})


async def _work_for(house: House, time: timedelta) -> None:
    """Works on, second by second as far as it matters."""
    end = house.now + time
    while True:
        await house.decide_again()
        await house.work()
        if house.now >= end:
            return
        house.later(timedelta(seconds=2))


async def _is_charged(house: House, *tenants: str) -> None:
    for tenant in tenants:
        assert len(house.charges(tenant)) == 1, await house.attempts(tenant)


async def _suspension(house: House, tenant: str) -> str | None:
    rows = await house.rows("SELECT suspended_reason FROM profile WHERE tenant_id = :t", t=tenant)
    return rows[0]["suspended_reason"]


async def _breaker(house: House) -> str | None:
    return (await house.rows("SELECT reason FROM breaker WHERE failures > 0") or [{"reason": None}])[0]["reason"]


# One card or customer


async def test_a_detached_card_ends_its_own_attempt_at_once_and_nobody_elses(house: House) -> None:
    tenant, other = await house.tenant("pm_card_visa"), await house.tenant("pm_card_visa")
    await house.stripe.v1.payment_methods.detach_async(house.profiles[tenant].cards[0].payment_method)
    await house.work()
    attempt = await house.attempt(tenant)
    assert (attempt["state"], attempt["reason"], attempt["action_required"]) == (
        "canceled",
        "card_detached",
        "new_card",
    )
    assert await _suspension(house, tenant) == "card_detached"
    assert await _breaker(house) is None
    await _is_charged(house, other)


async def test_the_next_card_that_its_owner_chooses_after_a_detached_one_is_charged(house: House) -> None:
    tenant = await house.tenant("pm_card_visa", "pm_card_mastercard")
    visa, mastercard = house.profiles[tenant].cards
    await house.stripe.v1.payment_methods.detach_async(visa.payment_method)
    await house.work()
    assert house.charges(tenant) == []
    await house.profile(tenant, cards=(mastercard,), default_payment_method=mastercard.payment_method)
    await house.work()
    assert [charge["payment_method"] for charge in house.charges(tenant)] == [mastercard.payment_method]


async def test_the_same_card_saved_again_after_it_was_detached_is_charged(house: House) -> None:
    tenant = await house.tenant("pm_card_visa")
    profile = house.profiles[tenant]
    assert profile.stripe_customer is not None
    await house.stripe.v1.payment_methods.detach_async(profile.cards[0].payment_method)
    await house.work()
    again = await house.save_card(profile.stripe_customer, "pm_card_visa")
    assert again.fingerprint == profile.cards[0].fingerprint
    await house.profile(tenant, cards=(again,), default_payment_method=again.payment_method)
    await house.work()
    await _is_charged(house, tenant)


async def test_a_card_of_another_customer_is_no_card_of_this_one(house: House) -> None:
    tenant, other = await house.tenant("pm_card_visa", available=100), await house.tenant("pm_card_mastercard")
    theirs = house.profiles[other].cards[0]
    await house.profile(tenant, cards=(theirs,), default_payment_method=theirs.payment_method)
    await house.balance(tenant, 10)
    await house.work()
    attempt = await house.attempt(tenant)
    assert (attempt["state"], attempt["reason"]) == ("canceled", "card_detached")
    assert (house.charges(tenant), await _breaker(house)) == ([], None)
    await _is_charged(house, other)


async def test_a_deleted_customer_stops_its_own_tenant_alone(house: House) -> None:
    tenant, other = await house.tenant("pm_card_visa"), await house.tenant("pm_card_visa")
    customer = house.profiles[tenant].stripe_customer
    assert customer is not None
    await house.stripe.v1.customers.delete_async(customer)
    await house.work()
    attempt = await house.attempt(tenant)
    assert (attempt["state"], attempt["reason"]) == ("canceled", "customer_gone")
    assert (await _suspension(house, tenant), await _breaker(house)) == ("customer_gone", None)
    await _is_charged(house, other)


async def test_a_customer_of_another_account_stops_its_own_tenant_alone(house: House) -> None:
    tenant, other = await house.tenant("pm_card_visa"), await house.tenant("pm_card_visa")
    await house.profile(tenant, stripe_customer="cus_of_another_account")
    await house.work()
    attempt = await house.attempt(tenant)
    assert (attempt["state"], attempt["reason"]) == ("canceled", "charge_refused"), "and nothing is left to find out"
    assert (await _suspension(house, tenant), await _breaker(house)) == ("charge_refused", None)
    await _is_charged(house, other)


async def test_a_key_of_another_account_for_a_while_stops_everybody_and_not_for_good(house: House) -> None:
    """Three are suspended before it is clear that it is none of theirs; an operator lifts that."""
    tenants = [await house.tenant("pm_card_visa") for _ in range(8)]
    right = house.steps.gateway
    with run_simulator() as another:
        async with open_stripe_gateway(stripe_settings(another.url, Settings.secret_key)) as wrong:
            house.use(wrong)
            await house.work()
    house.use(right)
    suspended = [tenant for tenant in tenants if await _suspension(house, tenant)]
    assert len(suspended) <= REFUSED_TENANTS_MIN
    for tenant in suspended:
        async with house.engine.begin() as connection:
            assert await unfreeze(connection, tenant)
    for _ in range(30):
        house.later(timedelta(minutes=1))
        await house.decide_again()
        await house.work()
    assert [len(house.charges(tenant)) for tenant in tenants] == [1] * 8


async def test_a_card_detached_between_two_tries_has_the_payment_intent_cancelled(house: House) -> None:
    tenant = await house.tenant("pm_card_chargeCustomerFail")
    await house.work()
    await house.stripe.v1.payment_methods.detach_async(house.profiles[tenant].cards[0].payment_method)
    house.later(timedelta(hours=2))
    await house.work()
    attempt = await house.attempt(tenant)
    assert (attempt["state"], attempt["reason"]) == ("canceled", "card_detached")
    assert [intent.status for intent in await house.payment_intents(tenant)] == ["canceled"]


@pytest.mark.parametrize("path", ["/v1/payment_methods/*", "/v1/customers/*"])
@pytest.mark.parametrize("kind", ["rate_limit", "error_before"])
async def test_a_refusal_that_cannot_be_explained_now_is_asked_again(house: House, path: str, kind: str) -> None:
    tenant = await house.tenant("pm_card_visa")
    house.fault("refuse", path=INTENTS)
    house.fault(kind, method="GET", path=path)
    await house.work()
    assert (await house.attempt(tenant))["state"] == "reserved"
    assert (await _suspension(house, tenant), await _breaker(house)) == (None, None)
    house.later(SECONDS)
    await house.work()
    await _is_charged(house, tenant)


# One order


async def test_an_order_that_is_refused_ends_proven_unmade_while_others_are_charged_within_seconds(
    house: House,
) -> None:
    alerted = _alerts("charge_refused")
    tenant = await house.tenant("pm_card_visa")
    others = [await house.tenant("pm_card_visa") for _ in range(5)]
    _refuse_tenant(house, tenant)
    await house.work()
    await _is_charged(house, *others)
    attempt = await house.attempt(tenant)
    assert (attempt["reason"], attempt["canceling"], attempt["state"]) == ("charge_refused", True, "declined")
    assert await _suspension(house, tenant) == "charge_refused"
    assert _alerts("charge_refused") == alerted + 1
    house.later(timedelta(minutes=11))
    await house.work()
    attempt = await house.attempt(tenant)
    assert (attempt["state"], attempt["reason"], attempt["reserved_month"]) == ("canceled", "charge_refused", None)
    assert [
        row["outcome"] for row in await house.rows("SELECT outcome FROM attempt_try WHERE tenant_id = :t", t=tenant)
    ] == ["never_made"]
    house.later(timedelta(days=2))
    await house.balance(tenant, 5)
    await house.work()
    assert (await house.last_reason(tenant), len(await house.attempts(tenant))) == ("suspended", 1)


async def test_a_retired_currency_of_one_tenant_stops_no_other(house: House) -> None:
    await house.receive(on_packages, *EUROS)
    tenant = await house.tenant("pm_card_visa", currency="eur")
    others = [await house.tenant("pm_card_visa") for _ in range(5)]
    _refuse(house, currency="eur")
    await house.work()
    await _is_charged(house, *others)
    assert house.charges(tenant) == []
    assert (await _suspension(house, tenant), await _breaker(house)) == ("charge_refused", None)


async def test_what_a_refused_order_has_made_all_the_same_is_found_and_credited(house: House) -> None:
    """The first call was executed and its answer lost; the second is refused, which says nothing about the first."""
    tenant = await house.tenant("pm_card_visa")
    house.fault("drop_answer", path=INTENTS)
    await house.work()
    house.simulator.post("/clock/advance", seconds=timedelta(hours=25).total_seconds())  # Stripe has forgotten the key
    _refuse_tenant(house, tenant)
    house.later(SECONDS)
    await house.work()
    assert (await house.attempt(tenant))["state"] == "charged"
    await house.credit(tenant)
    assert (await house.attempt(tenant))["state"] == "credited"
    await _is_charged(house, tenant)


async def test_an_order_refused_after_a_call_in_doubt_ends_only_when_the_key_is_forgotten(house: House) -> None:
    tenant = await house.tenant("pm_card_visa")
    house.fault("error_before", path=INTENTS, kept=False)
    await house.work()
    _refuse_tenant(house, tenant)
    house.later(SECONDS)
    await house.work()
    for later in (timedelta(minutes=11), timedelta(minutes=11)):
        house.later(later)
        await house.work()
        assert (await house.attempt(tenant))["state"] != "canceled"
    house.later(timedelta(hours=24))
    await house.work()
    assert (await house.attempt(tenant))["state"] == "canceled"
    assert await house.payment_intents(tenant) == []


async def test_a_try_that_is_refused_after_a_decline_has_the_payment_intent_cancelled(house: House) -> None:
    tenant = await house.tenant("pm_card_chargeCustomerFail")
    await house.work()
    house.fault("refuse", path=f"{INTENTS}/*/confirm", count=None)
    house.later(timedelta(hours=2))
    await house.work()
    attempt = await house.attempt(tenant)
    assert (attempt["state"], attempt["reason"]) == ("canceled", "charge_refused")
    assert [intent.status for intent in await house.payment_intents(tenant)] == ["canceled"]


async def test_an_operator_lifts_the_suspension_of_a_refused_order(house: House) -> None:
    tenant = await house.tenant("pm_card_visa")
    _refuse_tenant(house, tenant)
    await house.work()
    house.simulator.control.delete("/_sim/faults")
    house.later(timedelta(minutes=11))
    await house.work()
    async with house.engine.begin() as connection:
        assert await unfreeze(connection, tenant)
    await house.decide_again()
    await house.work()
    await _is_charged(house, tenant)
    async with house.engine.begin() as connection:
        assert not await unfreeze(connection, tenant)


# Several tenants


async def test_a_package_refused_to_several_tenants_is_stopped_alone(house: House) -> None:
    alerted = _alerts("package_refused")
    _refuse(house, metadata={"credits": "1000"})
    refused = [await house.tenant("pm_card_visa") for _ in range(REFUSED_TENANTS_MIN)]
    await house.work()
    assert [await _suspension(house, tenant) for tenant in refused] == ["charge_refused"] * len(refused)
    assert _alerts("package_refused") == alerted + 1
    waiting = await house.tenant("pm_card_visa")
    small = await house.tenant("pm_card_visa", amount_minor=500)
    await house.work()
    assert (await house.last_reason(waiting), await _breaker(house)) == ("breaker_open", None)
    await _is_charged(house, small)
    assert await _suspension(house, waiting) is None
    await _work_for(house, timedelta(minutes=2))
    assert await _suspension(house, waiting) is None, "a probe that is refused too is none of its tenant's"
    assert _alerts("package_refused") == alerted + 1
    house.simulator.control.delete("/_sim/faults")
    await _work_for(house, timedelta(minutes=10))
    await _is_charged(house, waiting)
    assert await house.rows("SELECT 1 FROM scoped_breaker") == []


async def test_a_package_that_its_operator_has_changed_is_tried_at_once(house: House) -> None:
    _refuse(house, metadata={"credits": "1000"})
    for _ in range(REFUSED_TENANTS_MIN):
        await house.tenant("pm_card_visa")
    await house.work()
    waiting = await house.tenant("pm_card_visa")
    assert await house.last_reason(waiting) == "breaker_open"
    await house.receive(on_packages, CATALOG[1].model_copy(update={"version": 2, "credits": 1_100}))
    house.later(timedelta(seconds=16))
    await house.decide_again()
    await house.work()
    await _is_charged(house, waiting)


async def test_refusals_that_are_written_down_at_the_same_time_are_counted_together(house: House) -> None:
    """Each is not committed yet while the others look: none may look before it has seen them."""
    _refuse(house)
    tenants = [await house.tenant("pm_card_visa") for _ in range(REFUSED_TENANTS_MIN)]
    await house.refresh_progress()
    attempts = [(tenant, (await house.attempt(tenant))["attempt"]) for tenant in tenants]

    async def all_wait() -> bool:
        waiting = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        return len(await house.rows(waiting)) == REFUSED_TENANTS_MIN

    async with house.engine.connect() as holder:
        await holder.execute(text("SELECT id FROM breaker FOR UPDATE"))
        working = asyncio.gather(*(house.steps.take(tenant, attempt) for tenant, attempt in attempts))
        await eventually(all_wait, "every refusal waits for its turn", timeout_s=15)
        await holder.rollback()
    await working
    assert await house.rows("SELECT name FROM scoped_breaker") == [{"name": "medium"}]


async def test_a_tenant_that_is_always_refused_keeps_nobody_waiting(workers: Workers) -> None:
    house = workers.house
    refused, *others = [await house.draw_up("pm_card_visa", available=10) for _ in range(6)]
    _refuse_tenant(house, refused)
    await workers.start()
    await workers.publish(*CATALOG, *(house.profiles[tenant] for tenant in (refused, *others)))
    await workers.publish(*(house.balances[tenant] for tenant in (refused, *others)))
    begun_s = asyncio.get_running_loop().time()
    for tenant in others:
        await workers.state_is(tenant, "charged")
    took_s = asyncio.get_running_loop().time() - begun_s
    print(f"five others charged within {took_s:.2f} s")
    assert took_s < 10
    assert (await workers.state_is(refused, "declined"))["reason"] == "charge_refused"


async def test_a_currency_refused_to_several_tenants_is_stopped_alone(house: House) -> None:
    alerted = _alerts("currency_refused")
    await house.receive(on_packages, *EUROS)
    _refuse(house, currency="eur")
    for amount_minor in (500, 4_500, 20_000):
        await house.tenant("pm_card_visa", currency="eur", amount_minor=amount_minor)
    await house.work()
    assert (_alerts("currency_refused"), await _breaker(house)) == (alerted + 1, None)
    euros = await house.tenant("pm_card_visa", currency="eur", amount_minor=500)
    dollars = await house.tenant("pm_card_visa")
    await house.work()
    assert (await house.last_reason(euros), house.charges(euros)) == ("breaker_open", [])
    await _is_charged(house, dollars)


async def test_what_is_refused_to_tenants_of_several_currencies_stops_everything(house: House) -> None:
    alerted = _alerts("everything_refused")
    await house.receive(on_packages, *EUROS)
    _refuse(house)
    await house.tenant("pm_card_visa", currency="eur")
    for amount_minor in (500, 4_500):
        await house.tenant("pm_card_visa", amount_minor=amount_minor)
    await house.work()
    assert _alerts("everything_refused") == alerted + 1
    other = await house.tenant("pm_card_visa", amount_minor=20_000, monthly_cap_minor=40_000)
    await house.work()
    assert (await house.last_reason(other), house.charges(other)) == ("breaker_open", [])
    await _work_for(house, timedelta(minutes=2))
    assert await _suspension(house, other) is None
    house.simulator.control.delete("/_sim/faults")
    await _work_for(house, timedelta(minutes=10))
    await _is_charged(house, other)
    assert await _breaker(house) is None


async def test_refusals_far_apart_in_time_are_each_tenants_own(house: House) -> None:
    tenants = [await house.tenant("pm_card_visa", available=100) for _ in range(REFUSED_TENANTS_MIN)]
    for tenant in tenants:
        _refuse_tenant(house, tenant)
        await house.balance(tenant, 10)
        await house.work()
        house.later(REFUSED_WITHIN)
    other = await house.tenant("pm_card_visa")
    await house.work()
    await _is_charged(house, other)


async def test_refusals_of_several_tenants_while_the_like_is_charged_to_others_are_each_tenants_own(
    house: House,
) -> None:
    tenants = [await house.tenant("pm_card_visa", available=100) for _ in range(REFUSED_TENANTS_MIN)]
    for tenant in tenants:
        _refuse_tenant(house, tenant)
        await house.balance(tenant, 10)
        other = await house.tenant("pm_card_visa")
        await house.work()
        await _is_charged(house, other)
    assert await house.rows("SELECT 1 FROM scoped_breaker") == []


# The breaker of everything, and its probe


class _Answering(StripeGateway):
    """Stripe, answering every charge with this."""

    def __init__(self, answer: Answer) -> None:
        self._said = answer

    async def create(self, parameters: Mapping[str, Any], key: str) -> Answer:
        return self._said


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refused_key_opens_the_breaker_and_suspends_nobody(house: House, status: int) -> None:
    alerted = _alerts("stripe_access_refused")
    tenant, other = await house.tenant("pm_card_visa"), await house.tenant("pm_card_visa")
    steps = house.steps
    house.use(_Answering(OperatorError(status, "error")))
    await house.work()
    house.steps = steps
    assert await _breaker(house) == f"stripe_{status}_error"
    assert _alerts("stripe_access_refused") == alerted + 1
    assert await house.rows("SELECT 1 FROM profile WHERE suspended_at IS NOT NULL") == []
    await _work_for(house, timedelta(seconds=30))
    await _is_charged(house, tenant, other)


async def test_the_probe_is_taken_by_another_tenant_than_the_one_that_failed(house: House) -> None:
    tenant = await house.tenant("pm_card_visa")
    await _fail_with_wrong_key(house)
    other = await house.tenant("pm_card_visa", available=100)
    await house.balance(other, 10)
    _refuse_tenant(house, tenant)
    house.later(timedelta(seconds=16))
    await house.decide_again()
    await house.work()
    await _is_charged(house, other)
    assert await _breaker(house) is None
    house.later(SECONDS)
    await house.work()
    assert await _suspension(house, tenant) == "charge_refused"


@pytest.mark.parametrize("trouble", ["refused", "detached"])
async def test_a_probe_that_fails_for_its_tenants_own_reason_does_not_keep_the_breaker_open(
    house: House, trouble: str
) -> None:
    tenant = await house.tenant("pm_card_visa")
    await _fail_with_wrong_key(house)
    if trouble == "refused":
        _refuse_tenant(house, tenant)
    else:
        await house.stripe.v1.payment_methods.detach_async(house.profiles[tenant].cards[0].payment_method)
    house.later(timedelta(seconds=25))
    await house.work()  # alone, so it probes itself in the end
    assert await _breaker(house) is None
    other = await house.tenant("pm_card_visa")
    await house.work()
    await _is_charged(house, other)


async def test_a_probe_whose_card_is_detached_makes_way_for_the_next_one(house: House) -> None:
    """It says nothing about a package that was refused to others, which the next one is to find out."""
    _refuse(house, metadata={"credits": "1000"})
    for _ in range(REFUSED_TENANTS_MIN):
        await house.tenant("pm_card_visa")
    await house.work()
    house.simulator.control.delete("/_sim/faults")
    house.later(timedelta(seconds=16))
    detached = await house.tenant("pm_card_visa")
    await house.stripe.v1.payment_methods.detach_async(house.profiles[detached].cards[0].payment_method)
    await house.work()
    assert await _suspension(house, detached) == "card_detached"
    other = await house.tenant("pm_card_visa")
    await house.work()
    await _is_charged(house, other)


async def test_one_probe_at_a_time_finds_out(house: House) -> None:
    tenants = [await house.tenant("pm_card_visa") for _ in range(4)]
    await _fail_with_wrong_key(house)
    house.later(timedelta(seconds=16))
    await house.refresh_progress()
    house.fault("hang", path=INTENTS, seconds=5.0, commit="never")
    for tenant in tenants:
        await house.steps.take(tenant, (await house.attempt(tenant))["attempt"])
    states = [(await house.attempt(tenant))["state"] for tenant in tenants]
    assert (states.count("unknown"), states.count("reserved")) == (1, 3)


async def _fail_with_wrong_key(house: House) -> None:
    steps = house.steps
    wrong: AbstractAsyncContextManager[StripeGateway] = house.gateway_with_key("sk_test_wrong")
    async with wrong as gateway:
        house.use(gateway)
        await house.work()
    house.steps = steps
    assert await _breaker(house) is not None


# The decisions


CARD, CUSTOMER = CardSeen("cus_1"), CustomerSeen(is_deleted=False)


@pytest.mark.parametrize(
    ("card", "owner", "means"),
    [
        (CARD, CUSTOMER, OrderRefused("error")),
        (CardSeen(None), CUSTOMER, CardUnusable("card_detached")),
        (CardSeen("cus_2"), CUSTOMER, CardUnusable("card_detached")),
        (NotFound(), CUSTOMER, CardUnusable("card_detached")),
        (CardSeen(None), CustomerSeen(is_deleted=True), CardUnusable("customer_gone")),
        (CARD, NotFound(), OrderRefused("customer_not_in_this_account", made_nothing=True)),
        (NoAnswer("time_out"), NotFound(), OrderRefused("customer_not_in_this_account", made_nothing=True)),
        (NoAnswer("time_out"), CUSTOMER, Refused("error")),
        (CARD, ServerError(500), Refused("error")),
        (RateLimited(), CUSTOMER, Refused("error")),
        (OperatorError(401, "expired"), OperatorError(401, "expired"), Refused("error")),
        (OperatorError(403, "no_permission"), OperatorError(403, "no_permission"), OrderRefused("error")),
        (Refused("error"), CUSTOMER, OrderRefused("error")),
    ],
)
def test_a_400_is_explained_by_what_card_and_customer_are(
    card: CardSeen | Answer, owner: CustomerSeen | Answer, means: Answer
) -> None:
    assert explained(Refused("error"), "cus_1", card, owner) == means


def _fact(tenant: str, package: str, currency: str, seconds_ago: float = 0) -> OrderFact:
    return OrderFact(tenant, package, currency, NOW - timedelta(seconds=seconds_ago))


A, B, C = (_fact(tenant, "p", "usd", 3) for tenant in "abc")
PACKAGE, USD = Subject(Scope.PACKAGE, "p"), Subject(Scope.CURRENCY, "usd")


@pytest.mark.parametrize(
    ("refusals", "charged", "stopped", "subject"),
    [
        ([A, B], [], [], None),
        ([A, A, A, B], [], [], None),
        ([A, B, C], [], [], PACKAGE),
        ([A, B, _fact("c", "p", "usd", 301)], [], [], None),
        ([A, B, _fact("c", "q", "usd")], [], [], USD),
        ([A, B, _fact("c", "q", "eur")], [], [], EVERYTHING),
        ([A, B, C, _fact("d", "q", "eur")], [], [PACKAGE], None),
        ([A, B, C, _fact("d", "q", "usd")], [], [PACKAGE], None),
        ([A, B, C], [], [USD], None),
        ([A, B, C], [_fact("d", "p", "usd", 1)], [], None),
        ([A, B, C], [_fact("d", "p", "usd", 4)], [], PACKAGE),
        ([A, B, C], [_fact("d", "q", "usd", 1)], [], PACKAGE),
        ([A, B, _fact("c", "q", "usd")], [_fact("d", "r", "eur", 1)], [], USD),
        ([A, B, _fact("c", "q", "usd")], [_fact("d", "r", "usd", 1)], [], None),
        ([A, B, _fact("c", "q", "eur")], [_fact("d", "r", "gbp", 1)], [], None),
    ],
)
def test_the_narrowest_that_several_tenants_share_is_stopped(
    refusals: list[OrderFact], charged: list[OrderFact], stopped: list[Subject], subject: Subject | None
) -> None:
    for shuffled in permutations(refusals):
        assert refused_subject(shuffled, charged, frozenset(stopped), NOW) == subject


@pytest.mark.parametrize(
    ("tenant", "seconds_later", "is_another_due", "may"),
    [
        ("other", -1, False, False),
        ("other", 0, True, True),
        ("failed", 0, False, False),
        ("failed", 5, False, True),
        ("failed", 5, True, False),
    ],
)
def test_a_tenant_that_has_failed_leaves_the_probe_to_others(
    tenant: str, seconds_later: int, is_another_due: bool, may: bool
) -> None:
    now = NOW + timedelta(seconds=seconds_later)
    assert may_probe(tenant, {"failed"}, NOW, now, is_another_due=is_another_due) is may
