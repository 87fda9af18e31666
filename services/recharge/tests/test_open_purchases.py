"""Only a purchase that may still pay for the need within minutes blocks a recharge."""

from datetime import UTC, datetime, timedelta
from typing import Literal

import pytest
from recharge_environment import RechargeEnvironment

from recharge.core.purchases import CANCELED_WITHIN, LEFT_OPEN_AFTER, PAID_WITHIN, BlockingPurchase, blocking_purchase
from shared.events import BillingProfile, OpenPurchase

NOW = datetime(2026, 9, 15, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
PurchaseState = Literal["open", "processing", "succeeded"]


def _profile(*purchases: tuple[str, PurchaseState, timedelta]) -> BillingProfile:
    return BillingProfile(
        tenant="acme", version=1, stripe_customer="cus_1", changed_at=NOW - MINUTE,
        purchases=tuple(OpenPurchase(purchase=name, state=state, since=NOW - age) for name, state, age in purchases),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("state", "age", "left_since", "holding"),
    [
        ("open", 0 * MINUTE, None, BlockingPurchase("pur", NOW + LEFT_OPEN_AFTER, is_left_open=False)),
        ("open", 4 * MINUTE, None, BlockingPurchase("pur", NOW + MINUTE, is_left_open=False)),
        ("open", 5 * MINUTE, None, BlockingPurchase("pur", NOW + CANCELED_WITHIN, is_left_open=True)),
        ("open", 29 * MINUTE, NOW - MINUTE, BlockingPurchase("pur", NOW - MINUTE + CANCELED_WITHIN, is_left_open=True)),
        ("open", 29 * MINUTE, NOW - 3 * MINUTE, None),
        ("processing", MINUTE, None, BlockingPurchase("pur", NOW - MINUTE + PAID_WITHIN, is_left_open=False)),
        ("processing", timedelta(days=2), None, None),
        ("succeeded", MINUTE, None, BlockingPurchase("pur", NOW - MINUTE + PAID_WITHIN, is_left_open=False)),
        ("succeeded", timedelta(hours=1), None, None),
    ],
)
def test_how_long_a_purchase_blocks_a_recharge(
    state: PurchaseState, age: timedelta, left_since: datetime | None, holding: BlockingPurchase | None
) -> None:
    assert blocking_purchase(_profile(("pur", state, age)), left_since, NOW) == holding


def test_the_purchase_that_blocks_the_longest_counts() -> None:
    profile = _profile(("left", "open", 9 * MINUTE), ("new", "open", MINUTE), ("debit", "processing", 9 * MINUTE))
    assert blocking_purchase(profile, None, NOW) == BlockingPurchase("new", NOW + 4 * MINUTE, is_left_open=False)


def test_a_purchase_without_a_state_counts_as_opened_with_the_profile() -> None:
    profile = _profile().model_copy(update={"open_purchases": ("pur",)})
    assert blocking_purchase(profile, None, NOW) == BlockingPurchase("pur", NOW + 4 * MINUTE, is_left_open=False)


async def _with_purchase(environment: RechargeEnvironment, state: PurchaseState, age: timedelta = timedelta(0)) -> str:
    tenant = await environment.tenant("pm_card_visa", available=100)
    purchase = OpenPurchase(purchase="pur_1", state=state, since=environment.now - age)
    await environment.profile(tenant, open_purchases=("pur_1",), purchases=(purchase,))
    await environment.balance(tenant, 10)
    await environment.work()
    assert environment.charges(tenant) == []
    return tenant


async def _minutes_until_charged(environment: RechargeEnvironment, tenant: str) -> int:
    for minute in range(1, 31):
        environment.advance_clock(MINUTE)
        await environment.decide_again()
        await environment.work()
        if environment.charges(tenant):
            assert len(environment.charges(tenant)) == 1
            return minute
    raise AssertionError("was not charged within 30 minutes")


async def test_a_purchase_that_was_left_open_blocks_for_minutes_only(
    environment: RechargeEnvironment,
) -> None:
    tenant = await _with_purchase(environment, "open")
    assert await environment.last_reason(tenant) == "open_purchase"
    environment.advance_clock(LEFT_OPEN_AFTER)
    await environment.decide_again()
    assert await environment.last_reason(tenant) == "purchase_left_open"
    assert await _minutes_until_charged(environment, tenant) == 3


async def test_a_later_need_waits_for_the_cancellation_of_a_purchase_that_was_left_open(
    environment: RechargeEnvironment,
) -> None:
    tenant = await _with_purchase(environment, "open", timedelta(minutes=20))
    assert await environment.last_reason(tenant) == "purchase_left_open"
    for available in (9, 8):  # further balances begin no new wait
        environment.advance_clock(MINUTE)
        await environment.balance(tenant, available)
        await environment.work()
        assert environment.charges(tenant) == []
    environment.advance_clock(MINUTE)
    await environment.balance(tenant, 7)
    await environment.work()
    assert len(environment.charges(tenant)) == 1


async def test_a_need_is_charged_for_at_once_when_the_blocking_purchase_was_cancelled(
    environment: RechargeEnvironment,
) -> None:
    tenant = await _with_purchase(environment, "open", timedelta(minutes=20))
    await environment.profile(tenant, open_purchases=(), purchases=())
    await environment.work()
    assert len(environment.charges(tenant)) == 1


async def test_a_bank_debit_that_is_processing_blocks_for_minutes_not_for_days(
    environment: RechargeEnvironment,
) -> None:
    tenant = await _with_purchase(environment, "processing")
    assert await _minutes_until_charged(environment, tenant) == 10


async def test_a_request_waits_for_the_cancellation_of_a_purchase_that_was_left_open(
    environment: RechargeEnvironment,
) -> None:
    tenant = await _with_purchase(environment, "open", timedelta(minutes=20))
    await environment.balance(tenant, 100)
    await environment.request(tenant)
    assert [row["state"] for row in await environment.rows("SELECT state FROM request")] == ["waiting"]
    await environment.profile(tenant, open_purchases=(), purchases=())
    await environment.work()
    assert len(environment.charges(tenant)) == 1


async def test_a_need_that_its_charge_did_not_end_is_charged_for_again_after_ten_minutes(
    environment: RechargeEnvironment,
) -> None:
    """The product may ask for more than is available; recharge is not informed that it was refused."""
    tenant = await environment.tenant("pm_card_visa", available=10, threshold_credits=50_000, monthly_cap_minor=9_000)
    await environment.work()
    environment.advance_clock(MINUTE)
    await environment.credit(tenant)
    assert await environment.last_reason(tenant) == "need_already_served"
    environment.advance_clock(9 * MINUTE)
    await environment.decide_again()
    await environment.work()
    assert len(environment.charges(tenant)) == 1
    environment.advance_clock(MINUTE)
    await environment.decide_again()
    await environment.work()
    assert len(environment.charges(tenant)) == 2
    await environment.credit(tenant)
    environment.advance_clock(10 * MINUTE)
    await environment.decide_again()
    assert await environment.last_reason(tenant) == "cap_reached"
    assert len(environment.charges(tenant)) == 2


async def test_an_empty_balance_is_a_need_with_a_threshold_of_zero(environment: RechargeEnvironment) -> None:
    tenant = await environment.tenant("pm_card_visa", available=1, threshold_credits=0)
    assert await environment.last_reason(tenant) == "above_threshold"
    await environment.balance(tenant, 0)
    await environment.work()
    assert len(environment.charges(tenant)) == 1


async def test_a_consent_dated_in_the_future_counts_from_its_date(environment: RechargeEnvironment) -> None:
    tenant = await environment.tenant("pm_card_visa", available=10, enabled=False)
    later = environment.profiles[tenant].auto_recharge
    assert later is not None
    assert later.consent is not None
    consent = later.consent.model_copy(update={"given_at": environment.now + timedelta(minutes=8)})
    await environment.settings(tenant, enabled=True, consent=consent)
    assert await environment.last_reason(tenant) == "no_consent"
    assert await _minutes_until_charged(environment, tenant) in (3, 4)
