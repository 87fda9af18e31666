"""`plan` against the model: any commands, any batches, any order, anything twice."""

from collections.abc import Sequence
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.core.commands import Command, Posted
from ledger.core.reversals import credits_to_reverse

from .builders import debit, purchase, refund, reinstated, unapplied, usage, withdrawn
from .ledger_in_memory import LedgerInMemory
from .model import Model

TENANTS = ("acme", "bravo")
INTENTS = ("pi_1", "pi_2", "pi_3")


# What Stripe says of one object does not change, so amounts follow from names.
def credit_of(intent: str) -> Command:
    n = INTENTS.index(intent)
    return purchase(intent, 10 * n + 7, tenant=TENANTS[n % 2], amount_minor=999)


def refund_of(intent: str, n: int, status: str) -> Command:
    return refund(f"re_{intent}_{n}", 333 * n, payment_intent=intent, status=status)


def withdrawn_of(intent: str, n: int) -> Command:
    return withdrawn(f"dp_{intent}_{n}", 500 * n, payment_intent=intent)


def reinstated_of(intent: str, n: int) -> Command:
    return reinstated(f"dp_{intent}_{n}", 500 * n, payment_intent=intent)


def usage_of(tenant: str, n: int) -> Command:
    return usage(f"u{n}", n, tenant=tenant)


def debit_of(tenant: str, n: int) -> Command:
    return debit(f"d{n}", n, tenant=tenant)


intents = st.sampled_from(INTENTS)
tenants = st.sampled_from(TENANTS)
statuses = st.sampled_from(["pending", "succeeded", "failed", "canceled"])
credit_facts = intents.map(credit_of)
refund_facts = st.builds(refund_of, intents, st.integers(1, 3), statuses)
dispute_facts = st.one_of(
    st.builds(withdrawn_of, intents, st.integers(1, 2)), st.builds(reinstated_of, intents, st.integers(1, 2))
)
usage_facts = st.builds(usage_of, tenants, st.integers(1, 12))
debits = st.builds(debit_of, tenants, st.integers(1, 12))
receipts = intents.map(unapplied)

commands = st.one_of(credit_facts, refund_facts, dispute_facts, usage_facts, debits, receipts)
batches = st.lists(st.lists(commands, max_size=8), max_size=8)


@settings(max_examples=300, deadline=None)
@given(batches)
def test_any_batches_end_as_the_model_says(given_batches: Sequence[Sequence[Command]]) -> None:
    ledger, model = LedgerInMemory(), Model()
    for batch in given_batches:
        ledger.apply(batch)
        for command in batch:
            model.apply(command)
        for tenant in TENANTS:
            assert ledger.balance(tenant) == model.balance(tenant)
    for intent in ledger.intents.values():
        if intent.credit is not None:
            assert intent.credit.reversed_credits == credits_to_reverse(intent.credit, intent)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(credit_facts, refund_facts, dispute_facts), max_size=20), st.randoms(use_true_random=False))
def test_what_stripe_says_ends_the_same_in_any_order_and_twice(facts: list[Command], random: Random) -> None:
    in_order, shuffled = LedgerInMemory(), LedgerInMemory()
    in_order.apply(facts)
    again = facts * 2
    random.shuffle(again)
    for fact in again:
        shuffled.apply([fact])
    for tenant in TENANTS:
        assert in_order.balance(tenant) == shuffled.balance(tenant)
    assert {each.id: each.credit and each.credit.reversed_credits for each in in_order.intents.values()} == {
        each.id: each.credit and each.credit.reversed_credits for each in shuffled.intents.values()
    }


@settings(max_examples=100, deadline=None)
@given(st.lists(debits, max_size=30))
def test_debits_never_overdraw(given_debits: list[Command]) -> None:
    ledger = LedgerInMemory()
    ledger.apply([purchase("pi_1", 30), purchase("pi_2", 20, tenant="bravo")])
    outcomes = ledger.apply(given_debits).outcomes
    assert all(balance.balance >= 0 and balance.owed == 0 for balance in ledger.balances.values())
    assert all(outcome.available_after >= 0 for outcome in outcomes if isinstance(outcome, Posted))
