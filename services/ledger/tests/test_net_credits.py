"""What a tenant has is what its net money bought, minus what it used and what expired: by sums over the facts alone.

The sums know nothing of lots, debts, holds or the order of things, so that they can share no mistake with the book.
"""

from collections import Counter
from datetime import datetime, timedelta
from fractions import Fraction
from math import floor

from hypothesis import example, given, settings
from hypothesis import strategies as st

from ledger.core.accounts import DEBIT_KINDS, Kind
from ledger.core.commands import Command, Credit, DisputeSeen, Expire, RefundSeen
from ledger.core.state import Transfer

from .builders import NOW, purchase, refund, reinstated, usage, withdrawn
from .histories import Step, histories
from .ledger_in_memory import LedgerInMemory

CREDITS, AMOUNT_MINOR, EXPIRES_IN_DAYS = 100, 999, 30
GIVEN = frozenset([Kind.PROMOTION, Kind.ADJUSTMENT])


def money_back(payment_intent: str, facts: list[Command]) -> int:
    """What refunds and disputes have taken of a payment, in minor units, whatever came first."""
    refunds = {(each.refund): each.amount_minor for each in facts if _is_refund(each, payment_intent)}
    void = {each.refund for each in facts if _is_refund(each, payment_intent) and each.status in {"failed", "canceled"}}
    disputes: Counter[str] = Counter()
    for each in {each for each in facts if isinstance(each, DisputeSeen) and each.payment_intent == payment_intent}:
        disputes[each.dispute] += each.amount_minor if each.moved == "withdrawn" else -each.amount_minor
    return sum(amount for name, amount in refunds.items() if name not in void) + sum(
        amount for amount in disputes.values() if amount > 0
    )


def bought(credit: Credit, facts: list[Command]) -> int:
    """Credits that the money which is left of a payment has bought: a part of a credit stays with the tenant."""
    back = min(Fraction(money_back(credit.payment_intent, facts), credit.amount_minor), Fraction(1))
    return credit.credits - floor(credit.credits * back)


def expired_of(transfers: list[Transfer], tenant: str) -> Counter[int]:
    """What expired of each grant, less what was given back for a reversal or to pay a debt."""
    expired: Counter[int] = Counter()
    for each in transfers:
        if each.tenant == tenant and each.kind in {Kind.EXPIRY, Kind.EXPIRY_REVERSAL}:
            for number, credits in zip(each.grant_numbers, each.grant_credits, strict=True):
                if each.kind is Kind.EXPIRY or credits > 0:  # what pays a debt at once is not gone again
                    expired[number] -= credits
    return expired


@settings(max_examples=400, deadline=None)
@given(histories())
def test_a_balance_is_what_net_money_bought_minus_usage_and_expiry(history: list[Step]) -> None:
    ledger, facts = LedgerInMemory(), list[Command]()
    credited: dict[str, Credit] = {}
    for step in history:
        if step.announced is not None:
            ledger.announce(*step.announced, step.now)
        ledger.run(step.batch, step.now)
        facts += step.batch
        for each in step.batch:
            if isinstance(each, Credit):
                credited.setdefault(each.payment_intent, each)
    for tenant in ledger.balances:
        of_tenant = [each for each in credited.values() if each.tenant == tenant]
        posted = [each for each in ledger.transfers if each.tenant == tenant]
        given_or_used = sum(each.balance_change for each in posted if each.kind in GIVEN | DEBIT_KINDS)
        expired = expired_of(ledger.transfers, tenant)
        net_bought = sum(bought(each, facts) for each in of_tenant)
        assert ledger.balance(tenant) == net_bought + given_or_used - expired.total()
        for each in of_tenant:
            credit = ledger.intents[each.payment_intent].credit
            assert credit is not None
            assert 0 <= expired[credit.grant_number] <= bought(each, facts), "nothing expires that is not paid for"


times = st.integers(0, 60).map(lambda days: NOW + timedelta(days=days))
facts_of_one = st.one_of(
    st.builds(lambda n, minor, ok: refund(f"re_{n}_{minor}", minor, status=ok), st.integers(0, 3),
              st.sampled_from([1, 100, 333, 666, AMOUNT_MINOR]), st.sampled_from(["succeeded", "failed"])),
    st.builds(lambda minor: withdrawn(f"dp_{minor}", minor), st.sampled_from([400, AMOUNT_MINOR])),
    st.builds(lambda minor: reinstated(f"dp_{minor}", minor), st.sampled_from([400, AMOUNT_MINOR])),
    st.just(purchase("pi_2", CREDITS)),
)  # fmt: skip
AFTER = NOW + timedelta(days=40)


@settings(max_examples=400, deadline=None)
@given(st.integers(0, 140), st.lists(st.tuples(times, facts_of_one), max_size=10))
@example(0, [(AFTER, refund(amount_minor=AMOUNT_MINOR))])
@example(40, [(AFTER, refund(amount_minor=AMOUNT_MINOR))])
@example(
    60,
    [
        (NOW, refund(amount_minor=500)),
        (NOW, purchase("pi_2", CREDITS)),
        (AFTER, refund(amount_minor=500, status="failed")),
    ],
)
def test_the_balance_does_not_depend_on_when_money_goes_back(
    used: int, timed_facts: list[tuple[datetime, Command]]
) -> None:
    """100 credits for 30 days are used at once, in part or beyond; then money goes back and comes again, and 100 that
    never expire are bought: the order changes nothing."""
    ledger = LedgerInMemory()
    ledger.run([purchase(credits=CREDITS, amount_minor=AMOUNT_MINOR, expires_in_days=EXPIRES_IN_DAYS)])
    if used:
        ledger.run([usage(credits=used)])
    for at, fact in sorted(timed_facts, key=lambda each: each[0]):
        ledger.run([fact], at)
    ledger.run([Expire("acme")], NOW + timedelta(days=61))
    facts = [fact for _, fact in timed_facts]
    left = bought(purchase(credits=CREDITS, amount_minor=AMOUNT_MINOR), facts)
    bought_for_ever = CREDITS * any(isinstance(fact, Credit) for fact in facts)
    assert ledger.balance() == bought_for_ever + min(left - used, 0), "of the first, what was not used has expired"


def _is_refund(each: Command, payment_intent: str) -> bool:
    return isinstance(each, RefundSeen) and each.payment_intent == payment_intent
