"""A refund or a dispute in another currency than its payment moves no credits: it becomes a dead letter and is
published."""

import pytest
from prometheus_client import REGISTRY

from ledger.commands.check import check, report
from ledger.core.commands import CurrencyDiffers, NothingPosted, RefundSeen
from ledger.handlers import Handlers
from shared.events import ReversalRefused, decode
from shared.kafka import Record
from shared.topics import TopicName, dead_letter_name

from .books import Books
from .builders import SIGNING_KEY, dispute_object, payment_intent_object, purchase, refund_object, stripe_record

PAID = stripe_record("payment_intent.succeeded", payment_intent_object())
REFUND = stripe_record("refund.created", refund_object(currency="eur"))
WITHDRAWN = stripe_record("charge.dispute.funds_withdrawn", dispute_object(currency="eur"))
DEAD_LETTERS = dead_letter_name(TopicName.STRIPE_EVENTS, "ledger")


async def stripe(books: Books, *records: Record) -> None:
    async with books.outbox.transaction(books.engine) as transaction:
        await Handlers([SIGNING_KEY]).on_stripe_events(transaction, records)


def refusals(books: Books) -> list[ReversalRefused]:
    found = [decode(event.value, ReversalRefused) for event in books.published.events if event.topic != DEAD_LETTERS]
    return [each for each in found if each is not None]


def dead_letters(books: Books) -> list[bytes]:
    return [event.value for event in books.published.events if event.topic == DEAD_LETTERS]


def refused() -> float:
    return REGISTRY.get_sample_value("ledger_refused_reversals_total", {"reason": "currency_differs"}) or 0.0


@pytest.mark.parametrize(
    ("reversal", "name"),
    [pytest.param(REFUND, "re_1", id="refund"), pytest.param(WITHDRAWN, "dp_1:withdrawn", id="dispute")],
)
async def test_a_refused_reversal_is_dead_lettered_and_published_once(
    books: Books, reversal: Record, name: str
) -> None:
    before = refused()
    await stripe(books, PAID)
    await stripe(books, reversal)
    assert (await books.balance(), refused() - before) == ((100, 0, 0), 1)
    [event] = refusals(books)
    assert (event.tenant, event.payment_intent, event.reversal, event.amount_minor) == ("acme", "pi_1", name, 1000)
    assert (event.currency, event.credited_currency) == ("eur", "usd")
    assert dead_letters(books) == [reversal.value]
    [letter] = [event for event in books.published.events if event.topic == DEAD_LETTERS]
    assert letter.headers["dead-letter-reason"].endswith("not in usd, which was credited")

    await stripe(books, reversal)
    assert (len(refusals(books)), len(dead_letters(books)), refused() - before) == (1, 1, 1)
    await books.assert_right()


@pytest.mark.parametrize("is_one_batch", [True, False])
async def test_a_waiting_reversal_is_refused_when_its_payment_comes(books: Books, is_one_batch: bool) -> None:
    before = refused()
    records = [REFUND, WITHDRAWN, PAID]
    for batch in [records] if is_one_batch else [[each] for each in records]:
        await stripe(books, *batch)
    assert (await books.balance(), refused() - before) == ((100, 0, 0), 2)
    assert [event.reversal for event in refusals(books)] == ["re_1", "dp_1:withdrawn"]
    await books.assert_right()


async def test_check_lists_refused_reversals(books: Books) -> None:
    await stripe(books, PAID, REFUND)
    findings = await check(books.engine)
    assert "refused reversals: 1\n  pi_1: re_1 of 1000 eur, credited in usd" in report(findings)


async def test_other_reversals_of_the_payment_are_applied(books: Books) -> None:
    await stripe(books, PAID, REFUND, stripe_record("refund.created", refund_object("re_2", amount=300)))
    assert await books.balance() == (70, 0, 0)
    await books.assert_right()


async def test_a_failed_refund_in_another_currency_is_not_refused(books: Books) -> None:
    await books.post(purchase())
    failed = RefundSeen("pi_1", "re_1", 1000, "eur", "failed")
    assert await books.post(failed) == [NothingPosted()]
    assert await books.post(RefundSeen("pi_1", "re_2", 1000, "eur", "succeeded")) == [CurrencyDiffers("usd")]


@pytest.mark.parametrize("is_one_batch", [True, False])
@pytest.mark.parametrize(
    "order",
    [["created", "failed"], ["failed", "created"], ["failed", "created", "failed"]],
    ids=lambda order: "-".join(order),
)
@pytest.mark.parametrize("is_paid_first", [True, False])
async def test_a_refused_refund_that_fails_is_void_in_any_order(
    books: Books, order: list[str], is_one_batch: bool, is_paid_first: bool
) -> None:
    failed = stripe_record("refund.failed", refund_object(currency="eur", status="failed"))
    seen = [{"created": REFUND, "failed": failed}[each] for each in order]
    records = [PAID, *seen] if is_paid_first else [*seen, PAID]
    for batch in [records] if is_one_batch else [[each] for each in records]:
        await stripe(books, *batch)
    assert await books.balance() == (100, 0, 0)
    assert "refused reversals: 0" in report(await check(books.engine))
    await books.assert_right()


async def test_a_refund_counted_without_currency_is_undone_when_it_fails(books: Books) -> None:
    """A version that did not look at currencies has taken 40 credits for 4.00 EUR of a refund."""
    await stripe(books, PAID, stripe_record("refund.created", refund_object(amount=400)))
    await stripe(books, stripe_record("charge.dispute.funds_withdrawn", dispute_object(amount=600)))
    assert await books.balance() == (0, 0, 0)
    await books.rows(
        """UPDATE payment_intent SET refunds = jsonb_build_object('re_1', (refunds -> 're_1') - 'currency'),
                                     disputes = jsonb_build_object('dp_1', (disputes -> 'dp_1') - 'currency')
           RETURNING 1"""
    )
    await stripe(books, stripe_record("refund.failed", refund_object(amount=400, currency="eur", status="failed")))
    assert await books.balance() == (40, 0, 0)
    won = dispute_object(amount=600, currency="eur")
    await stripe(books, stripe_record("charge.dispute.funds_reinstated", won))
    assert (await books.balance(), refusals(books)) == ((100, 0, 0), [])
    await books.assert_right()


async def test_funds_reinstated_in_another_currency_are_refused(books: Books) -> None:
    await stripe(books, PAID, stripe_record("charge.dispute.funds_withdrawn", dispute_object()))
    won = dispute_object(amount=900, currency="eur")
    await stripe(books, stripe_record("charge.dispute.funds_reinstated", won))
    assert await books.balance() == (0, 0, 0)
    assert [event.reversal for event in refusals(books)] == ["dp_1:reinstated"]
    await books.assert_right()


@pytest.mark.parametrize("is_won_first", [True, False])
@pytest.mark.parametrize("is_one_batch", [True, False])
@pytest.mark.parametrize("is_paid_first", [True, False])
async def test_a_refused_dispute_that_is_won_is_void(
    books: Books, is_won_first: bool, is_one_batch: bool, is_paid_first: bool
) -> None:
    won = stripe_record("charge.dispute.funds_reinstated", dispute_object(currency="eur"))
    seen = [won, WITHDRAWN] if is_won_first else [WITHDRAWN, won]
    records = [PAID, *seen, won] if is_paid_first else [*seen, PAID, won]
    for batch in [records] if is_one_batch else [[each] for each in records]:
        await stripe(books, *batch)
    assert await books.balance() == (100, 0, 0)
    assert "refused reversals: 0" in report(await check(books.engine))
    assert len(refusals(books)) <= 1
    await books.assert_right()


async def test_a_waiting_reversal_without_currency_has_that_of_the_credit(books: Books) -> None:
    await stripe(books, stripe_record("refund.created", refund_object(amount=400)))
    await books.rows(
        "UPDATE payment_intent SET refunds = jsonb_build_object('re_1', (refunds -> 're_1') - 'currency') RETURNING 1"
    )
    await stripe(books, PAID)
    assert await books.balance() == (60, 0, 0)
    await books.assert_right()
