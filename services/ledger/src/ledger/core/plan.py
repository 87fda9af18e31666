"""`plan(state, commands, now)`: what a batch of commands does to the books. Pure: the same arguments, the same changes.

Commands are taken in their order, and each sees what the ones before it have done.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import assert_never

from ledger.core.accounts import Door, Kind
from ledger.core.book import Book
from ledger.core.commands import (
    BeyondLimit,
    Command,
    Conflict,
    Credit,
    Debit,
    DisputeSeen,
    Expire,
    Insufficient,
    Noted,
    Outcome,
    Posted,
    RefundSeen,
    Unapplied,
    UnknownTenant,
    Usage,
    Waiting,
    input_hash,
)
from ledger.core.reversals import credits_to_reverse, with_dispute, with_refund, withdrawn_minor
from ledger.core.state import (
    Balance,
    Changes,
    DayUsage,
    Grant,
    GrantChange,
    PaymentIntent,
    PostedReference,
    ReferenceKey,
    State,
    Transfer,
)


def plan(state: State, commands: Sequence[Command], now: datetime) -> Changes:
    """What the commands change, and one outcome for each. `state` must hold everything they touch (see `State`)."""
    planner = _Planner(state, now)
    outcomes = [planner.apply(command) for command in commands]
    return planner.changes(outcomes)


class _Planner:
    def __init__(self, state: State, now: datetime) -> None:
        self._state = state
        self._now = now
        self._books: dict[str, Book] = {}
        self._references = dict(state.references)
        self._intents: dict[str, PaymentIntent] = {}
        self._receipts: list[Unapplied] = []
        self._resolved_receipts: list[tuple[str, str]] = []

    def apply(self, command: Command) -> Outcome:
        match command:
            case Usage():
                return self._use(command, command.occurred_at, is_fact=True)
            case Debit():
                return self._use(command, None, is_fact=False)
            case Credit():
                return self._credit(command)
            case RefundSeen():
                return self._refund(command)
            case DisputeSeen():
                return self._dispute(command)
            case Unapplied():
                return self._receipt(command)
            case Expire():
                self._book(command.tenant)
                return Noted()
            case _:
                assert_never(command)

    def changes(self, outcomes: Sequence[Outcome]) -> Changes:
        transfers: list[Transfer] = []
        balances: list[Balance] = []
        new_grants: list[Grant] = []
        changed_grants: list[GrantChange] = []
        for _tenant, book in sorted(self._books.items()):
            if book.transfers:
                made, changed = book.closing_grants()
                transfers += book.transfers
                balances.append(book.closing_balance())
                new_grants += made
                changed_grants += changed
        return Changes(
            outcomes, transfers, balances, new_grants, changed_grants,
            list(self._intents.values()), self._receipts, self._resolved_receipts,
        )  # fmt: skip

    def _use(self, command: Usage | Debit, occurred_at: datetime | None, *, is_fact: bool) -> Outcome:
        book = self._book(command.tenant)
        if book is None:
            return UnknownTenant()
        hashed = input_hash(Kind.USAGE, -command.credits)
        key = ReferenceKey(command.tenant, Door.PRODUCT, command.reference)
        known = self._references.get(key)
        if known is not None:
            return _repeated(known) if known.input_hash == hashed else Conflict(command.reference)
        if not is_fact and command.credits > book.available:
            return Insufficient(book.available)
        if not book.can_hold(-command.credits):
            return BeyondLimit()
        return self._posted(book.spend(command.reference, command.credits, hashed, command.purpose, occurred_at))

    def _credit(self, command: Credit) -> Outcome:
        intent = self._intent(command.payment_intent)
        if intent.credit is not None:
            first = self._references.get(ReferenceKey(intent.credit.tenant, Door.STRIPE, command.payment_intent))
            same = input_hash(command.kind, command.credits, command.amount_minor, command.currency)
            if first is None or intent.credit.tenant != command.tenant or first.input_hash != same:
                return Conflict(command.payment_intent)
            return _repeated(first)
        book = self._book(command.tenant) or self._open_book(command.tenant)
        if not book.can_hold(command.credits):
            return BeyondLimit()
        transfer, credit = book.credit(command)
        outcome = self._posted(transfer)
        if intent.receipt_tenant is not None:
            self._resolved_receipts.append((intent.receipt_tenant, intent.id))
        self._intents[intent.id] = replace(intent, credit=credit, refunds={}, disputes={})
        self._apply_waiting(intent)
        return outcome

    def _apply_waiting(self, waiting: PaymentIntent) -> None:
        """Applies what was seen before the credit, one after the other, so that each has an entry of its own."""
        for refund, state in sorted(waiting.refunds.items()):
            intent = self._intent(waiting.id)
            seen = replace(intent, refunds={**intent.refunds, refund: state})
            self._reverse_to(seen, refund, Kind.REFUND, state.amount_minor)
        for dispute, moved in sorted(waiting.disputes.items()):
            intent = self._intent(waiting.id)
            seen = replace(intent, disputes={**intent.disputes, dispute: moved})
            self._reverse_to(seen, f"{dispute}:withdrawn", Kind.DISPUTE, withdrawn_minor(moved))

    def _refund(self, command: RefundSeen) -> Outcome:
        before = self._intent(command.payment_intent)
        after = with_refund(before, command)
        if after is before:
            return Noted()
        is_void = after.refunds[command.refund].is_void
        reference = f"{command.refund}:{command.status}" if is_void else command.refund
        return self._reverse_to(after, reference, Kind.REFUND, command.amount_minor)

    def _dispute(self, command: DisputeSeen) -> Outcome:
        before = self._intent(command.payment_intent)
        after = with_dispute(before, command)
        if after is before:
            return Noted()
        kind = Kind.DISPUTE if command.moved == "withdrawn" else Kind.DISPUTE_WON
        return self._reverse_to(after, f"{command.dispute}:{command.moved}", kind, command.amount_minor)

    def _reverse_to(self, intent: PaymentIntent, reference: str, kind: Kind, amount_minor: int) -> Outcome:
        """Posts the difference between what is to be reversed now and what has been."""
        self._intents[intent.id] = intent
        if intent.credit is None:
            return Waiting()
        target = credits_to_reverse(intent.credit, intent)
        difference = target - intent.credit.reversed_credits
        if difference == 0:
            return Noted()
        book = self._book(intent.credit.tenant)
        assert book is not None, "who was credited has a balance"
        if not book.can_hold(-difference):
            return BeyondLimit()
        transfer = book.reverse(intent.credit, intent.id, reference, kind, difference, amount_minor)
        self._intents[intent.id] = replace(intent, credit=replace(intent.credit, reversed_credits=target))
        return self._posted(transfer)

    def _receipt(self, command: Unapplied) -> Outcome:
        intent = self._intent(command.payment_intent)
        if intent.credit is None and intent.receipt_tenant is None:
            self._intents[intent.id] = replace(intent, receipt_tenant=command.claimed_tenant)
            self._receipts.append(command)
        return Noted()

    def _posted(self, transfer: Transfer) -> Posted:
        posted = PostedReference(
            transfer.input_hash, transfer.version, transfer.credits, transfer.available_after, transfer.created_at
        )
        self._references[ReferenceKey(transfer.tenant, transfer.door, transfer.reference)] = posted
        return Posted(posted.version, posted.credits, posted.available_after, posted.posted_at)

    def _intent(self, payment_intent: str) -> PaymentIntent:
        changed = self._intents.get(payment_intent)
        return changed or self._state.payment_intents.get(payment_intent) or PaymentIntent(payment_intent)

    def _book(self, tenant: str) -> Book | None:
        """The tenant's book, opened with what is due expired; None where the tenant is unknown."""
        book = self._books.get(tenant)
        if book is None and (balance := self._state.balances.get(tenant)) is not None:
            book = self._books[tenant] = Book(balance, self._state.grants.get(tenant, ()), self._now)
            book.expire_due()
        return book

    def _open_book(self, tenant: str) -> Book:
        nothing = Balance(tenant, 0, 0, 0, 0, 0, 0, DayUsage(), self._now)
        book = self._books[tenant] = Book(nothing, (), self._now)
        return book


def _repeated(known: PostedReference) -> Posted:
    return Posted(known.version, known.credits, known.available_after, known.posted_at, repeated=True)
