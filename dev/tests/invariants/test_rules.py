"""Each kind of violation is found: a check that cannot fail shows nothing."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from invariants.rules import (
    AttemptSpan,
    Cap,
    Charge,
    Entry,
    Receipt,
    every_cent_once,
    never_charged_twice,
    only_its_own,
)
from shared.signed_metadata import CreditOrder, sign

NOW = datetime(2026, 9, 1, tzinfo=UTC)


def charge(name: str = "pi_1", **order: object) -> Charge:
    wanted = {"tenant": "acme", "credits": 100, "amount_minor": 1_000, "currency": "usd", "attempt": "att_1", **order}
    metadata = sign(CreditOrder(**wanted), "key")  # type: ignore[arg-type]
    return Charge(name, "cus_1", 1_000, "usd", 0, 0, metadata, NOW)


ENTRY = Entry("acme", "recharge", "pi_1", 100, 1_000, "usd")
CAP = Cap("acme", "usd", 5_000)


def test_a_charge_credited_once_is_right() -> None:
    assert every_cent_once([charge()], [ENTRY], []) == []


def test_a_charge_that_was_never_credited_is_found() -> None:
    assert "0 times" in every_cent_once([charge()], [], [])[0]


def test_a_charge_credited_twice_is_found() -> None:
    assert "2 times" in every_cent_once([charge()], [ENTRY, ENTRY], [])[0]


def test_credits_that_stripe_never_took_money_for_are_found() -> None:
    assert "never took it" in every_cent_once([], [ENTRY], [])[0]


def test_another_amount_or_number_of_credits_is_found() -> None:
    assert every_cent_once([charge()], [replace(ENTRY, amount_minor=999)], [])
    assert every_cent_once([charge()], [replace(ENTRY, credits=101)], [])


def test_a_refund_that_was_not_taken_back_is_found() -> None:
    refunded = replace(charge(), refunded_minor=333)
    assert "33 credits are to be taken back" in every_cent_once([refunded], [ENTRY], [])[0]
    assert every_cent_once([refunded], [ENTRY, replace(ENTRY, kind="refund", credits=-33)], []) == []


def test_an_unapplied_receipt_accounts_for_its_cents_only_when_they_are_the_same() -> None:
    assert every_cent_once([charge()], [], [Receipt("pi_1", 1_000, "usd")]) == []
    assert every_cent_once([charge()], [], [Receipt("pi_1", 1, "usd")])


def test_two_charges_for_one_attempt_are_found() -> None:
    assert never_charged_twice([charge(), charge("pi_2")], [CAP], []) == ["attempt att_1 was charged 2 times"]


def test_a_month_beyond_the_cap_is_found_and_other_months_do_not_count() -> None:
    next_month = replace(charge("pi_2", attempt="att_2"), created=NOW + timedelta(days=40))
    cap = replace(CAP, monthly_cap_minor=1_999)
    assert never_charged_twice([charge(), next_month], [cap], []) == []
    assert never_charged_twice([charge(), charge("pi_2", attempt="att_2")], [cap], [])


def test_overlapping_attempts_of_one_tenant_are_found() -> None:
    first = AttemptSpan("acme", "att_1", NOW, NOW + timedelta(seconds=5))
    second = AttemptSpan("acme", "att_2", NOW + timedelta(seconds=3), None)
    assert never_charged_twice([], [], [first, second])
    assert never_charged_twice([], [], [first, replace(second, began_at=NOW + timedelta(seconds=5))]) == []


def test_an_entry_or_a_customer_of_another_tenant_is_found() -> None:
    assert only_its_own([charge()], [replace(ENTRY, tenant="borealis")], {})
    assert only_its_own([charge(), charge("pi_2", tenant="borealis", attempt="att_2")], [], {})
    assert only_its_own([], [], {"ledger.balance": 1}) == ["ledger.balance: a tenant's role reads 1 rows of others"]
    assert only_its_own([charge()], [ENTRY], {"ledger.balance": 0}) == []
