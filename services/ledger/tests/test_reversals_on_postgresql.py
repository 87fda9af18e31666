"""Stripe's events of refunds and disputes, in every order, each twice, also before their credit, on PostgreSQL."""

import itertools
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest

from ledger.handlers import Handlers
from shared.kafka import Record
from shared.signed_metadata import sign

from .books import Books
from .builders import (
    SIGNING_KEY,
    dispute_object,
    order,
    payment_intent_object,
    purchase,
    refund,
    refund_object,
    reinstated,
    stripe_record,
    usage,
    withdrawn,
)

HANDLERS = Handlers([SIGNING_KEY])
WAYS_MAX = 48

#: An event's type, the name of its refund or dispute, and what that says.
Event = tuple[str, str, dict[str, Any]]


def refunded(name: str, amount: int, status: str = "succeeded", event: str = "created") -> Event:
    return f"refund.{event}", name, {"amount": amount, "status": status}


def disputed(name: str, event: str, amount: int = 1000, status: str = "needs_response") -> Event:
    return f"charge.dispute.{event}", name, {"amount": amount, "status": status}


#: Of 100 credits for 10.00 USD: the events, and how many are left.
SCENARIOS: dict[str, tuple[Sequence[Event], int]] = {
    "three refunds of a third": ([refunded("re_a", 333), refunded("re_b", 333), refunded("re_c", 334)], 0),
    "three refunds of almost a third": ([refunded("re_a", 333), refunded("re_b", 333), refunded("re_c", 333)], 1),
    "a refund and a dispute of the rest": ([refunded("re_a", 400), disputed("dp_a", "funds_withdrawn", 600)], 0),
    "a refund and a dispute of everything": ([refunded("re_a", 400), disputed("dp_a", "funds_withdrawn")], 0),
    "a refund and a dispute that is won": (
        [
            refunded("re_a", 400),
            disputed("dp_a", "funds_withdrawn"),
            disputed("dp_a", "funds_reinstated", status="won"),
            disputed("dp_a", "closed", status="won"),
        ],
        60,
    ),
    "a refund that takes its time": ([refunded("re_a", 250, "pending"), refunded("re_a", 250, event="updated")], 75),
    "a refund that is pending": ([refunded("re_a", 250, "pending"), refunded("re_a", 250, "requires_action")], 75),
    "a refund that fails": (
        [refunded("re_a", 250, "pending"), refunded("re_a", 250), refunded("re_a", 250, "failed", "failed")],
        100,
    ),
    "a refund that fails, and another": (
        [refunded("re_a", 250), refunded("re_a", 250, "failed", "failed"), refunded("re_b", 400)],
        60,
    ),
    "a refund that is canceled": (
        [refunded("re_a", 1000, "pending"), refunded("re_a", 1000, "canceled", "updated")],
        100,
    ),
    "a dispute that is lost": (
        [
            disputed("dp_a", "created"),
            disputed("dp_a", "funds_withdrawn"),
            disputed("dp_a", "updated", status="under_review"),
            disputed("dp_a", "closed", status="lost"),
        ],
        0,
    ),
    "a dispute that is won": (
        [disputed("dp_a", "funds_withdrawn"), disputed("dp_a", "funds_reinstated", status="won")],
        100,
    ),
    "a dispute that is prevented": ([disputed("dp_a", "created"), disputed("dp_a", "closed", status="prevented")], 100),
    "an inquiry": (
        [
            disputed("dp_a", "created", status="warning_needs_response"),
            disputed("dp_a", "funds_withdrawn", status="warning_under_review"),
            disputed("dp_a", "closed", status="warning_closed"),
        ],
        100,
    ),
    "an inquiry that becomes a dispute": (
        [
            disputed("dp_a", "created", status="warning_needs_response"),
            disputed("dp_a", "funds_withdrawn", 500),
            disputed("dp_a", "closed", 500, status="lost"),
        ],
        50,
    ),
    "two disputes, one of them won": (
        [
            disputed("dp_a", "funds_withdrawn", 300),
            disputed("dp_b", "funds_withdrawn", 300),
            disputed("dp_b", "funds_reinstated", 300, status="won"),
        ],
        70,
    ),
}


def record_of(event: Event, number: int) -> Record:
    """The event in delivery `number`, of a tenant and a PaymentIntent of its own."""
    event_type, name, says = event
    if event_type == "payment_intent.succeeded":
        metadata = sign(order(tenant=f"tenant-{number}"), SIGNING_KEY)
        return stripe_record(event_type, payment_intent_object(f"pi_{number}", metadata))
    make = refund_object if event_type.startswith("refund") else dispute_object
    return stripe_record(event_type, make(f"{name}_{number}", payment_intent=f"pi_{number}", **says))


def one_by_one(records: Sequence[Record]) -> list[list[Record]]:
    return [[record] for record in records]


def each_twice_at_once(records: Sequence[Record]) -> list[list[Record]]:
    return [[record, record] for record in records]


def all_at_once_and_again(records: Sequence[Record]) -> list[list[Record]]:
    return [list(records), list(records)]


def all_again_backwards(records: Sequence[Record]) -> list[list[Record]]:
    return [[record] for record in [*records, *reversed(records)]]


DELIVERIES = (one_by_one, each_twice_at_once, all_at_once_and_again, all_again_backwards)


@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_a_scenario_ends_the_same_in_any_order_and_delivered_twice(books: Books, scenario: str) -> None:
    events, left = SCENARIOS[scenario]
    orders = itertools.permutations([("payment_intent.succeeded", "pi", {}), *events])
    ways = list(itertools.product(orders, DELIVERIES))
    ways = Random(1).sample(ways, min(len(ways), WAYS_MAX))
    for number, (each, deliver) in enumerate(ways):
        for batch in deliver([record_of(event, number) for event in each]):
            async with books.outbox.transaction(books.engine) as transaction:
                await HANDLERS.on_stripe_events(transaction, batch)
    wrong = await books.rows("SELECT tenant_id, balance FROM balance WHERE (balance, owed) <> (:left, 0)", left=left)
    assert wrong == [], [ways[int(row.tenant_id.removeprefix("tenant-"))] for row in wrong]
    assert len(await books.rows("SELECT 1 FROM balance")) == len(ways)
    await books.assert_right()


async def test_spent_credits_of_a_dispute_are_a_receivable_until_it_is_won(
    books: Books,
) -> None:
    await books.post(purchase(), usage(credits=70), refund(amount_minor=400), withdrawn(amount_minor=600))
    assert await books.balance() == (-70, 70, 70)
    await books.post(purchase("pi_2", credits=50))
    assert await books.balance() == (-20, 20, 20)
    await books.post(reinstated(amount_minor=600))
    assert await books.balance() == (40, 0, 0)
    await books.assert_right()


async def test_a_reversal_takes_from_its_own_grant_only(books: Books) -> None:
    await books.post(purchase("pi_1"), purchase("pi_2"), refund(payment_intent="pi_2"))
    grants = await books.rows("SELECT payment_intent, remaining FROM credit_grant ORDER BY payment_intent")
    assert grants == [("pi_1", 100), ("pi_2", 0)]
