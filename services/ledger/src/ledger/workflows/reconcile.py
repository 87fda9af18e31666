"""Compares Stripe with the books: every PaymentIntent, refund and dispute that was made at Stripe since a time, and
every payment that the books have recorded since then. Nothing is locked, and both keep changing meanwhile.

Only objects with our marker are compared, as for events. The account may have other business.
"""

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, cast

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from ledger.core.commands import Credit, DisputeSeen, RefundSeen, UnappliedReceipt
from ledger.core.reconciling import AtStripe, Difference, InBooks, Kind, compare
from ledger.repository import check_sql
from ledger.repository.payment_intents import ROWS_MAX, books_since_query, in_books_of, payments_query
from ledger.stripe_events import command_of_payment_intent
from ledger.stripe_gateway import Listed, StripeAnswerUnfit, StripeGateway
from shared.clock import transaction_time
from shared.stripe_events import (
    DisputeView,
    MalformedEvent,
    PaymentIntentView,
    RefundView,
    created_of,
    dispute_moves_of,
    id_of,
    paid_at_of,
)

#: An event younger than this may still be on its way.
GRACE = timedelta(minutes=5)
#: How many objects of a kind one run may hold in memory.
OBJECTS_MAX = 500_000
#: How many payments that Stripe did not list, because they were created earlier, are looked up one by one.
LOOK_UPS_MAX = 5_000
#: How long an object may change after it was made: lists begin this long before `since`. A refund can
#: fail for 30 days (https://docs.stripe.com/refunds#failed-refunds); a dispute takes two to three months
#: (https://docs.stripe.com/disputes/how-disputes-work), and may be contested again.
CHANGES_FOR = {Listed.REFUNDS: timedelta(days=35), Listed.DISPUTES: timedelta(days=180)}
#: Stripe and the books change between the two reads. So a difference, unless an object is just missing, is checked a
#: second time, one PaymentIntent at a time. At most so many PaymentIntents are checked again.
SECOND_LOOKS_MAX = 1_000
_MISSING = frozenset([Kind.PAYMENT_MISSING, Kind.REFUND_MISSING, Kind.DISPUTE_MISSING])


class NotComparable(Exception):
    """The comparison was not possible; the message says what to do."""


@dataclass(slots=True)
class Findings:
    """What was compared, and how it differs."""

    since: datetime
    payments: int = 0
    refunds: int = 0
    disputes: int = 0
    differences: list[Difference] = field(default_factory=list[Difference])

    @property
    def exit_code(self) -> int:
        """0: no difference; 1: some."""
        return 1 if self.differences else 0


@dataclass(slots=True)
class _Reversals:
    """Refunds and disputes of a PaymentIntent, and the command of the PaymentIntent that Stripe expanded in them."""

    payment: Credit | UnappliedReceipt
    refunds: dict[str, RefundSeen] = field(default_factory=dict[str, RefundSeen])
    disputes: dict[str, tuple[DisputeSeen, ...]] = field(default_factory=dict[str, tuple[DisputeSeen, ...]])
    on_their_way: set[str] = field(default_factory=set[str])


async def reconcile(
    engine: AsyncEngine,
    gateway: StripeGateway,
    signing_keys: Sequence[str],
    since: timedelta | datetime,
    grace: timedelta = GRACE,
) -> Findings:
    """Compares the objects that were made or may have changed since then. Raises `StripeGaveNoAnswer` or
    `NotComparable`."""
    async with engine.connect() as connection:
        begun_at = await transaction_time(connection)
        unseen = [row.name for row in await connection.execute(text(check_sql.TABLES_NOT_FULLY_VISIBLE))]
    if unseen:
        raise NotComparable(f"This role does not see all rows of {', '.join(unseen)}: use the role ledger_worker.")
    findings = Findings(begun_at - since if isinstance(since, timedelta) else since)
    run = _Run(engine, gateway, signing_keys, findings, begun_at - grace)
    try:
        reversals = await run.reversals()
        seen = await run.compare_payments(reversals)
        await run.compare_older_payments({name: each for name, each in reversals.items() if name not in seen})
        await run.compare_books(seen)
        await run.look_again()
    except (MalformedEvent, StripeAnswerUnfit) as error:
        raise NotComparable(f"Something at Stripe cannot be read: {error}") from error
    return findings


@dataclass(slots=True)
class _Run:
    engine: AsyncEngine
    gateway: StripeGateway
    signing_keys: Sequence[str]
    findings: Findings
    young_after: datetime

    async def reversals(self) -> dict[str, _Reversals]:
        """All refunds and disputes of our payments that may have changed since then, by PaymentIntent."""
        found: dict[str, _Reversals] = {}
        for listed in (Listed.REFUNDS, Listed.DISPUTES):
            count = 0
            async for page in self.gateway.pages(listed, since=self.findings.since - CHANGES_FOR[listed]):
                count += len(page)
                _bound(count)
                for obj in page:
                    known = self._reversals_of(found, obj)
                    if known is not None:
                        self._add(known, listed, obj)
        self.findings.refunds = sum(len(each.refunds) for each in found.values())
        self.findings.disputes = sum(len(each.disputes) for each in found.values())
        return found

    async def compare_payments(self, reversals: Mapping[str, _Reversals]) -> set[str]:
        """Our payments that Stripe made since then; returns their ids."""
        seen: set[str] = set()
        async for page in self.gateway.pages(Listed.PAYMENT_INTENTS, since=self.findings.since):
            listed: list[AtStripe] = []
            for obj in page:
                payment = self._paid(PaymentIntentView.of(obj))
                if payment is None:
                    continue
                name = payment.payment_intent
                known = reversals.get(name) or _Reversals(payment)
                young = {name} if paid_at_of(obj) > self.young_after else set[str]()
                listed.append(
                    AtStripe(
                        name, payment, known.refunds, known.disputes, frozenset(known.on_their_way | young),
                        has_all_reversals=True,
                    )
                )  # fmt: skip
            seen.update(each.payment_intent for each in listed)
            _bound(len(seen))
            self.findings.payments += len(listed)
            await self._compare(listed)
        return seen

    async def compare_older_payments(self, reversals: Mapping[str, _Reversals]) -> None:
        """Payments made before, of which something was refunded or disputed since."""
        older = [
            AtStripe(name, each.payment, each.refunds, each.disputes, frozenset(each.on_their_way))
            for name, each in reversals.items()
        ]
        for start in range(0, len(older), ROWS_MAX):
            await self._compare(older[start : start + ROWS_MAX])

    async def compare_books(self, seen: set[str]) -> None:
        """Payments recorded in the books since then that Stripe did not list: created earlier, or unknown to Stripe."""
        looked_up = 0
        async for rows in self._books_since():
            unlisted = [row for row in rows if row["payment_intent"] not in seen]
            looked_up += len(unlisted)
            if looked_up > LOOK_UPS_MAX:
                raise NotComparable(
                    f"Stripe lists none of more than {LOOK_UPS_MAX} payments of the books. Is STRIPE_SECRET_KEY of the "
                    "account and mode that these books are of?"
                )
            for row in unlisted:
                name = row["payment_intent"]
                self.findings.payments += 1
                # Refunds and disputes have been compared; here only the payment is.
                self.findings.differences += compare(AtStripe(name, await self._looked_up(name)), in_books_of(row))

    async def look_again(self) -> None:
        """Checks differences again that may be due to reading Stripe and the books at different times; keeps those
        found twice."""
        first = self.findings.differences
        doubtful = sorted({each.payment_intent for each in first if each.kind not in _MISSING})[:SECOND_LOOKS_MAX]
        second: set[tuple[Kind, str]] = set()
        for name in doubtful:
            at_stripe = await self._all_of(name)
            in_books = (await self._books([name])).get(name)
            second.update((each.kind, each.object_id) for each in compare(at_stripe, in_books))
        self.findings.differences = [
            each for each in first
            if each.payment_intent not in doubtful or (each.kind, each.object_id) in second
        ]  # fmt: skip

    async def _all_of(self, name: str) -> AtStripe:
        payment = await self._looked_up(name)
        if payment is None:
            return AtStripe(name, None)
        known = _Reversals(payment)
        for listed in (Listed.REFUNDS, Listed.DISPUTES):
            async for page in self.gateway.pages(listed, payment_intent=name):
                for obj in page:
                    self._add(known, listed, obj)
        return AtStripe(name, payment, known.refunds, known.disputes, has_all_reversals=True)

    async def _looked_up(self, name: str) -> Credit | UnappliedReceipt | None:
        view = await self.gateway.payment_intent(name)
        return self._paid(view) if view is not None else None

    async def _compare(self, listed: Sequence[AtStripe]) -> None:
        books = await self._books(each.payment_intent for each in listed)
        for each in listed:
            self.findings.differences += compare(each, books.get(each.payment_intent))

    def _paid(self, view: PaymentIntentView) -> Credit | UnappliedReceipt | None:
        """The command of a PaymentIntent; None if it has taken no money, or is not ours."""
        return command_of_payment_intent(view, self.signing_keys) if view.status == "succeeded" else None

    def _add(self, known: _Reversals, listed: Listed, obj: Mapping[str, Any]) -> None:
        """Adds a refund or dispute as the commands that its events would become."""
        intent = known.payment.payment_intent
        if listed is Listed.REFUNDS:
            refund = RefundView.of(obj)
            if refund.amount_minor > 0:
                known.refunds[refund.id] = RefundSeen(
                    intent, refund.id, refund.amount_minor, refund.currency, refund.status
                )
            if created_of(obj) > self.young_after:
                known.on_their_way.add(refund.id)
            return
        dispute, moves = DisputeView.of(obj), dispute_moves_of(obj)
        if dispute.amount_minor > 0:
            known.disputes[dispute.id] = tuple(
                DisputeSeen(intent, dispute.id, dispute.amount_minor, dispute.currency, moved) for moved in moves
            )
        if moves and max(moves.values()) > self.young_after:
            known.on_their_way.add(dispute.id)

    def _reversals_of(self, found: dict[str, _Reversals], obj: Mapping[str, Any]) -> _Reversals | None:
        """The entry of the PaymentIntent that the refund or dispute is of; None if that, which is expanded, is not
        ours."""
        name, intent = id_of(obj.get("payment_intent")), obj.get("payment_intent")
        if name in found:
            return found[name]
        payment = (
            self._paid(PaymentIntentView.of(cast(Mapping[str, Any], intent))) if isinstance(intent, Mapping) else None
        )
        if name is None or payment is None:
            return None
        return found.setdefault(name, _Reversals(payment))

    async def _books(self, names: Iterable[str]) -> dict[str, InBooks]:
        async with self.engine.connect() as connection:
            rows = await connection.execute(payments_query(list(names)))
            return {row["payment_intent"]: in_books_of(row) for row in rows.mappings()}

    async def _books_since(self) -> AsyncGenerator[Sequence[Any]]:
        after: tuple[datetime, str] = (self.findings.since, "")
        while True:
            async with self.engine.connect() as connection:
                rows = (await connection.execute(books_since_query(after, self.young_after))).mappings().all()
            if rows:
                yield rows
            if len(rows) < ROWS_MAX:
                return
            after = rows[-1]["first_seen_at"], rows[-1]["payment_intent"]


def _bound(objects: int) -> None:
    if objects > OBJECTS_MAX:
        raise NotComparable(f"There are more than {OBJECTS_MAX} objects of a kind: choose a later time.")
