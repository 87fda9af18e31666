"""Hypothesis strategies for commands: few names and small numbers, so that commands affect each other."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from hypothesis import strategies as st

from ledger.core.commands import AllOrNothing, Command, Debit, Expire, Hold, Promotion

from .builders import (
    NOW,
    adjustment,
    capture,
    debit,
    hold,
    promotion,
    purchase,
    refund,
    reinstated,
    release,
    unapplied,
    usage,
    withdrawn,
)

TENANTS = ("acme", "bravo", "carol")
INTENTS = tuple(f"pi_{n}" for n in range(6))


# What Stripe says of one object does not change, so amounts follow from names.
def credit_of(intent: str, by_operator: int | None = None) -> Command:
    """`by_operator`: how many credits an operator gives for its receipt, which may differ."""
    n = INTENTS.index(intent)
    expires_in_days = (None, 2, 30)[n // 2]
    return purchase(
        intent,
        by_operator or 10 * n + 7,
        tenant=TENANTS[n % len(TENANTS)],
        amount_minor=999,
        expires_in_days=expires_in_days,
    )


def refund_of(intent: str, n: int, status: str) -> Command:
    return refund(f"re_{intent}_{n}", 333 * n, payment_intent=intent, status=status)


def withdrawn_of(intent: str, n: int) -> Command:
    return withdrawn(f"dp_{intent}_{n}", 500 * n, payment_intent=intent)


def reinstated_of(intent: str, n: int) -> Command:
    return reinstated(f"dp_{intent}_{n}", 500 * n, payment_intent=intent)


def debit_of(tenant: str, reference: str, credits: int, may_overdraw: bool) -> Debit:
    return debit(reference, credits, tenant=tenant, may_overdraw=may_overdraw)


def all_of(debits: Sequence[Debit]) -> Command:
    return AllOrNothing(tuple(debits))


#: The first more often than the last, so that much happens to it.
tenants = st.sampled_from([*TENANTS[:1] * 3, *TENANTS[:2], *TENANTS])
limits = st.sampled_from([0, 5, 20])
#: Shared by usage, debits and holds; the same with other credits is a conflict.
references = st.sampled_from([f"job-{n}" for n in range(10)])
hold_names = st.sampled_from([f"job-{n}" for n in range(3)])
small = st.integers(1, 15)
_more = small | st.integers(1, 50)
times_until = st.sampled_from([timedelta(hours=1), timedelta(hours=6), timedelta(days=2), timedelta(days=30)])

intents = st.sampled_from(INTENTS)
statuses = st.sampled_from(["pending", "succeeded", "failed", "canceled"])
credit_facts = intents.map(credit_of)
refund_facts = st.builds(refund_of, intents, st.integers(1, 3), statuses)
dispute_facts = st.one_of(
    st.builds(withdrawn_of, intents, st.integers(1, 2)), st.builds(reinstated_of, intents, st.integers(1, 2))
)
debits = st.builds(debit_of, tenants, references, small, st.booleans())
later = times_until.map(lambda until: NOW + until)

holds = st.builds(hold, hold_names, _more, tenant=tenants, expires_at=later)
captures = st.builds(capture, hold_names, _more, tenant=tenants, may_overdraw=st.booleans())

_kinds: list[st.SearchStrategy[Command]] = [
    credit_facts,
    refund_facts,
    dispute_facts,
    st.builds(usage, references, small, tenant=tenants),
    debits,
    st.lists(debits, min_size=1, max_size=4).map(all_of),
    *[holds] * 4,
    *[captures] * 4,
    st.builds(release, hold_names, tenant=tenants),
    st.builds(
        promotion, references, small, tenant=tenants, priority=st.sampled_from([50, 100, 200]),
        expires_at=st.none() | later,
    ),
    st.builds(adjustment, references, small | st.integers(-15, -1), tenant=tenants),
    st.builds(Expire, tenants),
    st.builds(unapplied, intents, tenant=tenants),
    st.builds(credit_of, intents, small),
]  # fmt: skip
#: Any command that may come at `NOW`; `moved_to` makes it one of another time. (`one_of` would take each kind once.)
commands = st.sampled_from(_kinds).flatmap(lambda kind: kind)
batches = st.lists(commands, max_size=8)
#: Which of the commands that came before come again.
repetitions = st.lists(st.integers(0, 2**16), max_size=4)


def moved_to(now: datetime, batch: Sequence[Command]) -> list[Command]:
    """The commands as they would come at `now`."""
    return [
        replace(command, expires_at=command.expires_at + (now - NOW))
        if isinstance(command, Hold | Promotion) and command.expires_at is not None
        else command
        for command in batch
    ]


def repeated(before: Sequence[Command], repetitions: Sequence[int], now: datetime) -> list[Command]:
    """Some of the commands again, without holds and promotions whose time is over."""
    chosen = [before[n % len(before)] for n in repetitions] if before else []
    return [
        command
        for command in chosen
        if not isinstance(command, Hold | Promotion) or command.expires_at is None or command.expires_at > now
    ]


@dataclass
class Step:
    """At `now` a tenant may be announced with a limit, and then the batch is applied."""

    now: datetime
    announced: tuple[str, int] | None
    batch: list[Command]


_steps = st.lists(
    st.tuples(
        st.just(timedelta(0)) | times_until, st.none() | st.tuples(tenants, limits), batches, st.just([]) | repetitions
    ),
    max_size=8,
)


@st.composite
def histories(draw: st.DrawFn) -> list[Step]:
    """Steps in order of time, with many repetitions of earlier commands."""
    begun = [*map(credit_of, INTENTS), promotion("welcome", 5)] if draw(st.integers(0, 3)) else []
    now, before = NOW, [*begun]
    steps = [Step(now, None, begun)]
    for passed, announced, batch, again in draw(_steps):
        now += passed
        steps.append(Step(now, announced, [*moved_to(now, batch), *repeated(before, again, now)]))
        before += steps[-1].batch
    return steps
