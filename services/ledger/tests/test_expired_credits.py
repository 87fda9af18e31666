"""Refunds and disputes take expired credits first, and make no debt of them."""

from datetime import datetime, timedelta

import pytest
from sqlalchemy import text

from ledger.commands.check import check
from ledger.core.commands import Command, Expire, Posted
from ledger.jobs.end_due import end_due_holds_and_grants
from shared.database import make_engine

from .books import Books
from .builders import NOW, capture, debit, hold, promotion, purchase, refund, reinstated, release, usage, withdrawn

LIFE_DAYS = 30
AFTER = NOW + timedelta(days=LIFE_DAYS + 1)
BOUGHT = purchase(credits=100, expires_in_days=LIFE_DAYS)


async def balance_after(books: Books, *commands: tuple[datetime, Command]) -> tuple[int, int, int]:
    """(balance, owed, receivable) after the end of 100 credits for 30 days, with these commands before."""
    await books.post(BOUGHT)
    for at, command in commands:
        await books.post(command, now=at)
    await books.post(Expire("acme"), now=AFTER)
    await books.assert_right()
    return await books.balance()


async def test_a_full_refund_of_expired_credits_leaves_no_debt(books: Books) -> None:
    assert await balance_after(books, (AFTER, Expire("acme")), (AFTER, refund())) == (0, 0, 0)
    entries = await books.rows("SELECT kind, source, destination, credits FROM transfer ORDER BY version")
    assert [tuple(each) for each in entries] == [
        ("purchase", "sold", "available", 100),
        ("expiry", "available", "expired", 100),
        ("expiry_reversal", "expired", "available", 100),
        ("refund", "available", "refunded", 100),
    ]


@pytest.mark.parametrize("refunded_at", [NOW, AFTER], ids=["before", "after"])
@pytest.mark.parametrize(
    ("used", "amount_minor", "balance"),
    [(0, 1000, 0), (0, 500, 0), (40, 1000, -40), (40, 500, 0), (40, 700, -10), (100, 500, -50)],
)
async def test_whether_a_refund_comes_before_or_after_the_expiry_makes_no_difference(
    books: Books, refunded_at: datetime, used: int, amount_minor: int, balance: int
) -> None:
    spent = [(NOW, debit(credits=used))] if used else []
    ended = await balance_after(
        books, *spent, (refunded_at, Expire("acme")), (refunded_at, refund(amount_minor=amount_minor))
    )
    assert ended == (balance, -balance, -balance)


async def test_a_dispute_won_after_the_expiry_changes_nothing(books: Books) -> None:
    assert await balance_after(books, (NOW, debit(credits=40)), (AFTER, withdrawn()), (AFTER, reinstated())) == (
        0,
        0,
        0,
    )


async def test_credits_of_a_failed_refund_expire_again(books: Books) -> None:
    failed = (AFTER, refund(status="failed"))
    assert await balance_after(books, (AFTER, Expire("acme")), (AFTER, refund()), failed, failed) == (0, 0, 0)


async def test_partial_refunds_take_expired_credits_before_spent_ones(books: Books) -> None:
    parts = [(AFTER, refund(f"re_{n}", 250)) for n in range(3)]
    assert await balance_after(books, (NOW, debit(credits=40)), *parts) == (-15, 15, 15)


async def test_credits_released_after_a_full_refund_do_not_expire(books: Books) -> None:
    """Other credits paid the debt of the held part, so the released credits belong to them."""
    await books.post(BOUGHT, hold(credits=30, expires_at=AFTER + timedelta(days=1)))
    await books.post(refund(), now=AFTER)
    assert await books.balance() == (0, 30, 30)
    await books.post(purchase("pi_2", 100), now=AFTER)
    assert await books.balance() == (100, 0, 0)
    await books.post(release(), now=AFTER)
    assert await books.balance() == (100, 0, 0)
    await books.assert_right()
    await end_due_holds_and_grants(books.engine, books.outbox_at(AFTER))  # comes to an end
    assert await books.balance() == (100, 0, 0)
    await books.post(usage(credits=100), now=AFTER)
    assert await books.balance() == (0, 0, 0)


async def test_credits_paid_for_by_other_grants_do_not_expire(books: Books) -> None:
    """A refund took 50 of which 10 were spent, and the second purchase paid those; when it fails, 10 of the 50 that
    come back are the second purchase's."""
    half = refund(amount_minor=500)
    second, failed = purchase("pi_2", 100), refund(amount_minor=500, status="failed")
    ended = await balance_after(books, (NOW, debit(credits=60)), (NOW, half), (NOW, second), (NOW, failed))
    assert ended == (100, 0, 0)


async def test_credits_with_which_a_grant_pays_its_own_debt_can_expire(books: Books) -> None:
    """The debt was not paid when the refund failed: nobody else's credits are among those that come back."""
    half = refund(amount_minor=500)
    failed = refund(amount_minor=500, status="failed")
    ended = await balance_after(
        books, (NOW, debit(credits=60)), (NOW, half), (NOW, failed), (AFTER, purchase("pi_2", 100))
    )
    assert ended == (100, 0, 0)


async def test_expiring_credits_pay_the_debt_first(books: Books) -> None:
    """Of 200 credits 70 were used and 100 taken back: 30 are left to expire, and nothing is owed after."""
    await books.post(purchase(credits=100), usage(credits=70), purchase("pi_2", 100, expires_in_days=LIFE_DAYS))
    await books.post(refund())
    assert await books.balance() == (30, 70, 70)
    await books.post(Expire("acme"), now=AFTER)
    assert await books.balance() == (0, 0, 0)
    await books.assert_right()
    await books.post(purchase("pi_3", 100), now=AFTER)
    assert await books.balance() == (100, 0, 0)


async def test_an_expiring_promotion_pays_the_debt_first(books: Books) -> None:
    await books.post(purchase(credits=100), usage(credits=100), promotion(credits=50, expires_at=AFTER))
    await books.post(refund())
    await books.post(Expire("acme"), now=AFTER)
    assert await books.balance() == (-50, 50, 50)
    await books.assert_right()


@pytest.mark.parametrize("end", [capture(credits=30), release()], ids=["captured", "released"])
async def test_credits_paid_for_by_others_do_not_expire_while_held(books: Books, end: Command) -> None:
    """A hold has 30 of the first purchase's when its refund takes the rest; the second pays those 30. When the refund
    fails, 30 of what comes back are the second's, whatever becomes of the hold."""
    long_hold = hold(credits=30, expires_at=AFTER + timedelta(days=1))
    await books.post(BOUGHT, long_hold, refund(), purchase("pi_2", 100), refund(status="failed"))
    await books.post(Expire("acme"), now=AFTER)
    await books.post(end, now=AFTER)
    assert await books.balance() == (100, 0, 0)
    await books.assert_right()


async def test_a_grant_that_pays_for_a_third_keeps_what_others_paid_for(books: Books) -> None:
    """The second purchase paid 60 of the first's; when the first's come back they pay 60 of the third's. The 40 that
    are left are the second's, for the first has used or paid its 100."""
    await books.post(BOUGHT, debit(credits=60), refund("re_1"), purchase("pi_2", 60))
    await books.post(purchase("pi_3", 60), usage("job-2", 60), refund("re_3", payment_intent="pi_3"))
    await books.post(refund("re_1", status="failed"))
    assert await books.balance() == (40, 0, 0)
    await books.post(Expire("acme"), now=AFTER)
    assert await books.balance() == (40, 0, 0)
    await books.assert_right()


async def test_a_reversal_does_not_change_other_grants(books: Books) -> None:
    await books.post(BOUGHT, purchase("pi_2", 50))
    [outcome] = await books.post(refund(), now=AFTER)
    assert isinstance(outcome, Posted)
    assert await books.balance() == (50, 0, 0)
    await books.assert_right()


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        ("UPDATE credit_grant SET expired = 90 WHERE grant_number = 1", "what has expired is 90"),
        ("UPDATE credit_grant SET reversed = 0 WHERE grant_number = 2", "what is reversed is 0"),
        (
            "ALTER TABLE credit_grant DROP CONSTRAINT credit_grant_expired; "
            "DELETE FROM transfer WHERE kind = 'expiry_reversal'",
            "what has expired and was taken back as well is 100",
        ),
    ],
)
async def test_check_finds_credits_lost_twice(books: Books, damage: str, found: str) -> None:
    await books.post(BOUGHT, purchase("pi_2", expires_in_days=LIFE_DAYS))
    await books.post(refund(payment_intent="pi_2"), now=AFTER)
    await books.assert_right()
    owner = make_engine(books.database.superuser_url, application_name="ledger-test-damage", pool_size=1)
    async with owner.begin() as connection:
        for statement in damage.split("; "):
            await connection.execute(text(statement))
    await owner.dispose()
    findings = await check(books.engine)
    assert any(found in sentence for sentence in findings.wrong), findings.wrong


async def test_the_database_refuses_more_expired_credits_than_were_paid_for(books: Books) -> None:
    await books.post(BOUGHT)
    with pytest.raises(Exception, match="credit_grant_expired"):
        await books.rows("UPDATE credit_grant SET expired = 60, reversed = 41 RETURNING 1")
