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
intents = st.sampled_from(INTENTS)
credit_facts = intents.map(
    lambda name: purchase(name, 10 * INTENTS.index(name) + 7, tenant=TENANTS[INTENTS.index(name) % 2], amount_minor=999)
)
refund_facts = st.builds(
    lambda intent, n, status: refund(f"re_{intent}_{n}", 333 * n, payment_intent=intent, status=status),
    intents,
    st.integers(1, 3),
    st.sampled_from(["pending", "succeeded", "failed", "canceled"]),
)
dispute_facts = st.builds(
    lambda build, intent, n: build(f"dp_{intent}_{n}", 500 * n, payment_intent=intent),
    st.sampled_from([withdrawn, reinstated]),
    intents,
    st.integers(1, 2),
)
usage_facts = st.builds(
    lambda tenant, n: usage(f"u{n}", n, tenant=tenant), st.sampled_from(TENANTS), st.integers(1, 12)
)
debits = st.builds(lambda tenant, n: debit(f"d{n}", n, tenant=tenant), st.sampled_from(TENANTS), st.integers(1, 12))
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
