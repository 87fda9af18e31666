"""The rules of the books, one by one, without a database."""

from datetime import timedelta

import pytest

from ledger.core.accounts import CREDITS_MAX, Account, Kind, Namespace
from ledger.core.commands import (
    BalanceOutOfRange,
    Command,
    Conflict,
    Expire,
    Insufficient,
    NothingPosted,
    Outcome,
    Posted,
    Recorded,
    UnknownTenant,
    Waiting,
)

from .builders import NOW, debit, promotion, purchase, refund, reinstated, unapplied, usage, withdrawn
from .ledger_in_memory import LedgerInMemory


def applied(*commands: Command) -> LedgerInMemory:
    """A ledger after these commands, each in a batch of its own."""
    ledger = LedgerInMemory()
    for command in commands:
        ledger.run([command])
    return ledger


def outcome_of(ledger: LedgerInMemory, command: Command) -> Outcome:
    return ledger.run([command]).outcomes[0]


def test_a_credit_makes_a_grant_and_moves_credits_from_sold_to_available() -> None:
    ledger = applied(purchase(credits=100, expires_in_days=30))
    [transfer] = ledger.transfers
    assert (transfer.source, transfer.destination, transfer.credits) == (Account.SOLD, Account.AVAILABLE, 100)
    assert (transfer.namespace, transfer.reference, transfer.kind) == (Namespace.STRIPE, "pi_1", Kind.PURCHASE)
    [grant] = ledger.grants["acme"].values()
    assert (grant.remaining, grant.expires_at) == (100, NOW + timedelta(days=30))


def test_the_same_credit_again_answers_the_first_result() -> None:
    ledger = applied(purchase(), debit(credits=30))
    repeated = outcome_of(ledger, purchase())
    assert isinstance(repeated, Posted)
    assert (repeated.repeated, repeated.version, repeated.available_after) == (True, 1, 100)
    assert ledger.balance() == 70


def test_a_payment_intent_is_credited_once_even_if_it_names_another_tenant_later() -> None:
    ledger = applied(purchase())
    assert outcome_of(ledger, purchase(tenant="other")) == Conflict("pi_1")
    assert outcome_of(ledger, purchase(credits=999)) == Conflict("pi_1")
    assert "other" not in ledger.balances


def test_the_same_reference_in_another_namespace_is_another_reference() -> None:
    """A product's debit may be called pi_1, and takes nothing from the credit of that name."""
    ledger = applied(debit("pi_1", 5), purchase("pi_1"), debit("pi_1", 5))
    assert ledger.balance() == 95


def test_credits_burn_lowest_priority_then_soonest_expiry_then_oldest() -> None:
    ledger = applied(
        purchase("pi_1", 10), purchase("pi_2", 10, expires_in_days=20), purchase("pi_3", 10, expires_in_days=10),
        purchase("pi_4", 10),
    )  # fmt: skip
    ledger.run([debit(credits=35)])
    assert [ledger.grants["acme"][number].remaining for number in (1, 2, 3, 4)] == [0, 0, 0, 5]
    assert ledger.transfers[-1].grant_numbers == [3, 2, 1, 4]


def test_a_debit_beyond_what_is_available_is_refused_and_leaves_its_reference_free() -> None:
    ledger = applied(purchase(credits=10))
    assert outcome_of(ledger, debit(credits=11)) == Insufficient(10)
    ledger.run([purchase("pi_2", 10)])
    assert isinstance(outcome_of(ledger, debit(credits=11)), Posted)


def test_usage_beyond_the_balance_is_recorded_and_owed() -> None:
    ledger = applied(purchase(credits=10), usage(credits=25))
    assert (ledger.balance(), ledger.balances["acme"].owed, ledger.balances["acme"].receivable) == (-15, 15, 0)
    ledger.run([purchase("pi_2", 100)])
    assert (ledger.balance(), ledger.balances["acme"].owed) == (85, 0)
    assert ledger.grants["acme"][2].remaining == 85


def test_the_same_reference_with_other_credits_is_a_conflict_and_with_another_purpose_is_not() -> None:
    ledger = applied(purchase(), debit(credits=10))
    assert outcome_of(ledger, debit(credits=11)) == Conflict("job-1")
    assert isinstance(outcome_of(ledger, debit(credits=10, purpose="other")), Posted)
    assert outcome_of(ledger, usage(credits=10)) == Recorded(repeated=True)
    assert ledger.balance() == 90


def test_a_debit_of_an_unknown_tenant_is_refused() -> None:
    ledger = applied()
    assert outcome_of(ledger, debit()) == UnknownTenant()
    assert outcome_of(ledger, usage()) == UnknownTenant()


def test_a_refund_takes_from_its_own_grant() -> None:
    ledger = applied(purchase("pi_1", 100), purchase("pi_2", 100), refund(payment_intent="pi_2"))
    assert [grant.remaining for grant in ledger.grants["acme"].values()] == [100, 0]


def test_the_spent_part_of_a_refund_is_a_receivable_that_the_next_credit_pays() -> None:
    ledger = applied(purchase(credits=100), debit(credits=70), refund())
    balance = ledger.balances["acme"]
    assert (balance.balance, balance.owed, balance.receivable) == (-70, 70, 70)
    ledger.run([purchase("pi_2", 100)])
    balance = ledger.balances["acme"]
    assert (balance.balance, balance.owed, balance.receivable) == (30, 0, 0)


def test_three_refunds_of_a_third_take_everything() -> None:
    ledger = applied(
        purchase(credits=100), refund("re_1", 333), refund("re_2", 333), refund("re_3", 334),
    )  # fmt: skip
    assert [each.credits for each in ledger.transfers[1:]] == [33, 33, 34]
    assert ledger.balance() == 0


def test_refund_and_dispute_of_one_payment_take_it_once() -> None:
    ledger = applied(purchase(credits=100), refund("re_1", 600), withdrawn(amount_minor=1000))
    assert ledger.balance() == 0
    ledger.run([reinstated(amount_minor=1000)])
    assert ledger.balance() == 40
    assert [each.kind for each in ledger.transfers[1:]] == [Kind.REFUND, Kind.DISPUTE, Kind.DISPUTE_WON]


@pytest.mark.parametrize("status", ["failed", "canceled"])
def test_a_refund_that_fails_later_gives_the_credits_back(status: str) -> None:
    ledger = applied(purchase(credits=100), refund(status="pending"), refund(status=status), refund(status="succeeded"))
    assert ledger.balance() == 100
    assert ledger.transfers[-1].reference == f"re_1:{status}"
    assert ledger.grants["acme"][1].remaining == 100


def test_a_refund_that_had_failed_before_it_was_seen_takes_nothing() -> None:
    ledger = applied(purchase(credits=100), refund(status="failed"), refund(status="pending"))
    assert (ledger.balance(), len(ledger.transfers)) == (100, 1)


def test_a_dispute_that_is_won_pays_the_receivable_first_and_refills_its_grant() -> None:
    ledger = applied(purchase(credits=100), debit(credits=40), withdrawn(), reinstated())
    assert (ledger.balance(), ledger.balances["acme"].receivable) == (60, 0)
    assert ledger.grants["acme"][1].remaining == 60


def test_dispute_events_may_come_in_any_order() -> None:
    ledger = applied(purchase(credits=100), reinstated(), withdrawn(), withdrawn(), reinstated())
    assert (ledger.balance(), len(ledger.transfers)) == (100, 1)


def test_reversals_wait_for_their_credit() -> None:
    ledger = applied()
    assert outcome_of(ledger, refund("re_1", 300)) == Waiting()
    assert outcome_of(ledger, refund("re_1", 300)) == NothingPosted()
    assert outcome_of(ledger, withdrawn(amount_minor=200)) == Waiting()
    ledger.run([purchase(credits=100)])
    assert ledger.balance() == 50
    assert [each.reference for each in ledger.transfers] == ["pi_1", "re_1", "dp_1:withdrawn"]


def test_an_unapplied_receipt_moves_no_credits_and_is_written_once() -> None:
    ledger = applied()
    assert len(ledger.run([unapplied(), unapplied()]).receipts) == 1
    assert ledger.run([unapplied()]).receipts == []
    changes = ledger.run([purchase()])
    assert changes.resolved_receipts == [("acme", "pi_1")]
    assert ledger.run([unapplied()]).receipts == []
    assert ledger.balance() == 100


def test_a_grant_expires_once_however_often_and_late_it_is_checked() -> None:
    ledger = applied(purchase(credits=100, expires_in_days=1), debit(credits=30))
    late = NOW + timedelta(days=5)
    assert ledger.run([Expire("acme"), Expire("acme")], late).transfers[0].credits == 70
    assert ledger.run([Expire("acme")], late).transfers == []
    assert ledger.balance() == 0


def test_due_grants_expire_before_anything_is_spent() -> None:
    ledger = applied(purchase("pi_1", 100, expires_in_days=1), purchase("pi_2", 10))
    changes = ledger.run([debit(credits=50)], NOW + timedelta(days=1))
    assert changes.outcomes == [Insufficient(10)]
    assert ledger.balance() == 10


def test_times_and_versions_of_a_tenant_never_go_back() -> None:
    ledger = applied(purchase())
    ledger.run([debit()], NOW - timedelta(hours=1))
    assert [each.version for each in ledger.transfers] == [1, 2]
    assert ledger.transfers[1].created_at == NOW


def test_a_balance_stays_within_credits_max() -> None:
    ledger = applied(purchase(credits=CREDITS_MAX))
    assert outcome_of(ledger, purchase("pi_2", 1)) == BalanceOutOfRange()
    ledger.run([usage("job-1", CREDITS_MAX), usage("job-2", CREDITS_MAX)])
    assert outcome_of(ledger, usage("job-3", 1)) == BalanceOutOfRange()
    assert ledger.balance() == -CREDITS_MAX


def test_usage_is_counted_by_purpose_and_restarts_each_day() -> None:
    ledger = applied(
        purchase(credits=1000), usage("a", 5, purpose="x"), debit("b", 6, purpose="y"), usage("c", 7, purpose="x")
    )
    assert dict(ledger.balances["acme"].usage.by_purpose) == {"x": 12, "y": 6}
    ledger.run([usage(f"many-{n}", 1, purpose=f"p{n}") for n in range(120)])
    assert ledger.balances["acme"].usage.of_other_purposes == 22
    ledger.run([usage("tomorrow", 3, purpose="z")], NOW + timedelta(days=1))
    assert dict(ledger.balances["acme"].usage.by_purpose) == {"z": 3}
    assert ledger.balances["acme"].usage.of_other_purposes == 0


@pytest.mark.parametrize(
    ("taken", "given_back"),
    [(withdrawn(), reinstated()), (refund(), refund(status="failed"))],
    ids=["dispute won", "refund failed"],
)
def test_credits_returned_to_an_expired_grant_expire_at_once(taken: Command, given_back: Command) -> None:
    """Otherwise later commands of the batch could still spend it."""
    ledger = applied(purchase(credits=100, expires_in_days=1), taken)
    assert ledger.run([given_back, debit(credits=1)], NOW + timedelta(days=2)).outcomes[1] == Insufficient(0)
    assert ledger.balance() == 0


def test_a_promotion_that_has_expired_already_gives_no_credits() -> None:
    ledger = applied(purchase(credits=5))
    assert ledger.run([promotion(expires_at=NOW), debit(credits=6)]).outcomes[1] == Insufficient(5)


def test_consecutive_debits_of_one_grant_are_a_run_that_ends_with_the_grant() -> None:
    ledger = applied(purchase("pi_1", 30), purchase("pi_2", 30))
    debits: list[Command] = [usage(f"u{n}", 10) for n in range(5)]
    changes = ledger.run([*debits, debit("d1", 1)])
    assert [(run.grant_number, [use.reference for use in run.debits]) for run in changes.runs] == [
        (1, ["u0", "u1"]),
        (2, ["u3", "u4", "d1"]),
    ]
    assert [each.reference for each in changes.transfers] == ["u2"], "what empties a grant stands alone"
    assert [each.version for each in ledger.transfers[2:]] == [3, 4, 5, 6, 7, 8]
    assert [each.balance_after for each in ledger.transfers[2:]] == [50, 40, 30, 20, 10, 9]
    assert ledger.balances["acme"].usage.by_purpose == {"summaries": 51}


def test_a_debit_in_a_run_is_known_to_later_debits_of_the_batch() -> None:
    ledger = applied(purchase(credits=100))
    first, repeated, conflict, used_again = ledger.run(
        [debit("d1", 10), debit("d1", 10), debit("d1", 11), usage("d1", 10)]
    ).outcomes
    assert isinstance(first, Posted)
    assert repeated == first._replace(repeated=True)
    assert (conflict, used_again) == (Conflict("d1"), Recorded(repeated=True))
    assert ledger.balance() == 90
