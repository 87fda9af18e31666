"""`plan` against the model: any commands, any batches, any order, anything twice, at any time."""

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.core.commands import Command, Debit, Posted
from ledger.core.reversals import credits_to_reverse
from ledger.core.state import Transfer

from .builders import debit, purchase
from .histories import Step, credit_facts, dispute_facts, histories, refund_facts
from .ledger_in_memory import LedgerInMemory
from .model import Model


@settings(max_examples=400, deadline=None)
@given(histories())
def test_any_history_ends_as_the_model_says(history: list[Step]) -> None:
    ledger, model = LedgerInMemory(), Model()
    for step in history:
        if step.announced is not None:
            ledger.announce(*step.announced, step.now)
            model.announce(*step.announced)
        ledger.run(step.batch, step.now)
        for command in step.batch:
            model.record(command, step.now)
        assert ledger.views() == model.views()
    for intent in ledger.intents.values():
        if intent.credit is not None:
            assert intent.credit.reversed_credits == credits_to_reverse(intent.credit, intent)


def in_order(transfer: Transfer) -> tuple[str, int]:
    return transfer.tenant, transfer.version


@settings(max_examples=200, deadline=None)
@given(histories())
def test_it_does_not_matter_how_commands_are_batched(history: list[Step]) -> None:
    batched, one_by_one = LedgerInMemory(), LedgerInMemory()
    for step in history:
        for ledger in (batched, one_by_one):
            if step.announced is not None:
                ledger.announce(*step.announced, step.now)
        batched.run(step.batch, step.now)
        for command in step.batch:
            one_by_one.run([command], step.now)
    assert batched.views() == one_by_one.views()
    assert sorted(batched.transfers, key=in_order) == sorted(one_by_one.transfers, key=in_order)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(credit_facts, refund_facts, dispute_facts), max_size=20), st.randoms(use_true_random=False))
def test_stripe_events_end_the_same_in_any_order_and_twice(facts: list[Command], random: Random) -> None:
    in_order, shuffled = LedgerInMemory(), LedgerInMemory()
    in_order.run(facts)
    again = facts * 2
    random.shuffle(again)
    for fact in again:
        shuffled.run([fact])
    for tenant in in_order.balances:
        assert in_order.balance(tenant) == shuffled.balance(tenant)
    assert {each.id: each.credit and each.credit.reversed_credits for each in in_order.intents.values()} == {
        each.id: each.credit and each.credit.reversed_credits for each in shuffled.intents.values()
    }


_debits_of_two = st.builds(
    lambda tenant, n: debit(f"d{n}", n, tenant=tenant), st.sampled_from(["acme", "bravo"]), st.integers(1, 12)
)


@settings(max_examples=100, deadline=None)
@given(st.lists(_debits_of_two, max_size=30))
def test_debits_never_overdraw(given_debits: list[Debit]) -> None:
    ledger = LedgerInMemory()
    ledger.run([purchase("pi_1", 30), purchase("pi_2", 20, tenant="bravo")])
    outcomes = ledger.run(given_debits).outcomes
    assert all(balance.balance >= 0 and balance.owed == 0 for balance in ledger.balances.values())
    assert all(outcome.available_after >= 0 for outcome in outcomes if isinstance(outcome, Posted))
