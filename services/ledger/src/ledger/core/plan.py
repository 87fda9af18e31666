"""`plan(state, commands, now)`: what a batch of commands changes in the books.

Commands are executed in order, and each sees the changes of those before it. A refund or dispute that comes before its
payment is kept with the PaymentIntent (`Waiting`), and applied when the payment is credited.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import assert_never

from ledger.core.accounts import Kind, Namespace
from ledger.core.book import Book
from ledger.core.commands import (
    Adjustment,
    AllOrNothing,
    BalanceOutOfRange,
    Capture,
    Command,
    Conflict,
    Credit,
    CurrencyDiffers,
    Debit,
    DebitOutcomes,
    DisputeSeen,
    Expire,
    Held,
    Hold,
    HoldEnded,
    HoldStatus,
    Insufficient,
    NothingPosted,
    Outcome,
    Posted,
    Promotion,
    Recorded,
    RefundSeen,
    Release,
    UnappliedReceipt,
    UnknownHold,
    UnknownTenant,
    Usage,
    Waiting,
    Withheld,
    input_hash,
)
from ledger.core.reversals import VOID_REFUND_STATUSES, credits_to_reverse, with_dispute, with_refund, withdrawn_minor
from ledger.core.state import (
    Balance,
    Changes,
    DisputeState,
    Grant,
    GrantChange,
    HoldState,
    PaymentIntent,
    PostedReference,
    RefundState,
    RefusedReversal,
    State,
    Transfer,
    UsageRun,
)

#: The reason of an unapplied receipt whose order is credited to another PaymentIntent already.
ORDER_ALREADY_CREDITED = "order_already_credited"

_RECORDED = Recorded()


def plan(state: State, commands: Sequence[Command], now: datetime) -> Changes:
    """What the commands change, and one outcome for each. `state` must hold everything they touch (see `State`)."""
    planner = _Planner(state, now)
    outcomes = [planner.record_usage(each) if type(each) is Usage else planner.execute(each) for each in commands]
    return planner.changes(outcomes)


def posts_all(outcomes: Sequence[Outcome]) -> bool:
    """Whether no command was refused. Where the references were not read, a refusal is not final: the command may be a
    repetition of one that was posted, so the batch is planned again with its references."""
    if outcomes.count(_RECORDED) == len(outcomes):  # nearly always where there are many
        return True
    return all(
        posts_all(each.outcomes) if type(each) is DebitOutcomes else type(each) is Posted or type(each) is Recorded
        for each in outcomes
    )


class _Planner:
    def __init__(self, state: State, now: datetime) -> None:
        self._state = state
        self._now = now
        self._books: dict[str, Book] = {}
        self._references: dict[tuple[str, Namespace, str], PostedReference | Transfer] = {**state.references}
        self._intents: dict[str, PaymentIntent] = {}
        self._orders = dict(state.orders)
        self._receipts: list[UnappliedReceipt] = []
        self._refused: list[tuple[PaymentIntent, RefusedReversal]] = []
        self._resolved_receipts: list[tuple[str, str]] = []

    def execute(self, command: Command) -> Outcome:
        match command:
            case Usage():
                return self.record_usage(command)
            case Debit():
                return self._debit(command)
            case AllOrNothing(debits):
                return self._all_or_nothing(debits)
            case Hold():
                return self._hold(command)
            case Capture():
                return self._capture(command)
            case Release():
                return self._release(command)
            case Promotion() | Adjustment():
                return self._promote_or_adjust(command)
            case Credit():
                return self._credit(command)
            case RefundSeen():
                return self._refund(command)
            case DisputeSeen():
                return self._dispute(command)
            case UnappliedReceipt():
                return self._receipt(command)
            case Expire():
                self._book(command.tenant)
                return NothingPosted()
            case _:
                assert_never(command)

    def changes(self, outcomes: Sequence[Outcome]) -> Changes:
        runs: list[UsageRun] = []
        transfers: list[Transfer] = []
        balances: list[Balance] = []
        new_grants: list[Grant] = []
        changed_grants: list[GrantChange] = []
        new_holds: list[HoldState] = []
        ended_holds: list[HoldState] = []
        for _tenant, book in sorted(self._books.items()):
            if book.has_changed:
                made, changed = book.closing_grants()
                runs += book.runs
                transfers += book.transfers
                balances.append(book.closing_balance())
                new_grants += made
                changed_grants += changed
                if book.holds:
                    held, ended = book.closing_holds()
                    new_holds += held
                    ended_holds += ended
        return Changes(
            outcomes=outcomes,
            runs=runs,
            transfers=transfers,
            balances=balances,
            new_grants=new_grants,
            changed_grants=changed_grants,
            payment_intents=list(self._intents.values()),
            receipts=self._receipts,
            resolved_receipts=self._resolved_receipts,
            new_holds=new_holds,
            ended_holds=ended_holds,
            refused_reversals=self._refused,
        )

    def record_usage(self, command: Usage) -> Outcome:
        book = self._books.get(command.tenant) or self._book(command.tenant)
        if book is None:
            return UnknownTenant()
        known = self._posted_by_product(book, command.reference)
        if known is not None:
            same = known.input_hash == input_hash(Kind.USAGE, -command.credits)
            return Recorded(repeated=True) if same else Conflict(command.reference)
        if book.append_to_run(command):
            return _RECORDED
        if not book.stays_in_range(-command.credits):
            return BalanceOutOfRange()
        return Recorded(over_overdraft_limit=self._spend(book, command).over_overdraft_limit)

    def _debit(self, command: Debit) -> Outcome:
        refusal = self._refusal(command, 0)
        if refusal is not None:
            return refusal
        book = self._books[command.tenant]
        usage = Usage(command.tenant, command.reference, command.credits, command.purpose, occurred_at=None)
        over_overdraft_limit = not book.append_to_run(usage) and self._spend(book, usage).over_overdraft_limit
        return Posted(
            book.version, command.credits, book.available, book.now, over_overdraft_limit=over_overdraft_limit
        )

    def _spend(self, book: Book, usage: Usage) -> Transfer:
        transfer = self._references[usage.tenant, Namespace.PRODUCT, usage.reference] = book.spend(usage)
        return transfer

    def _posted_by_product(self, book: Book, reference: str) -> PostedReference | Transfer | None:
        """What is posted under a product's reference, in this batch or before it."""
        if reference in book.run_versions:
            return book.transfer_in_run(reference)
        return self._references.get((book.tenant, Namespace.PRODUCT, reference)) if self._references else None

    def _refusal(self, command: Debit, preceding_credits: int) -> Outcome | None:
        """What answers the debit without posting it, after debits of the same batch that take
        `preceding_credits`; None if it can be posted."""
        book = self._book(command.tenant)
        if book is None:
            return UnknownTenant()
        known = self._posted_by_product(book, command.reference)
        if known is not None:
            same = known.input_hash == input_hash(Kind.USAGE, -command.credits)
            return _repeated(known) if same else Conflict(command.reference)
        if command.credits + preceding_credits > book.spendable(command.may_overdraw):
            return Insufficient(book.available - preceding_credits)
        return None if book.stays_in_range(-command.credits - preceding_credits) else BalanceOutOfRange()

    def _all_or_nothing(self, debits: Sequence[Debit]) -> Outcome:
        """Posts the debits only if each can be posted. The same reference twice among them is one debit."""
        debited: dict[str, int] = {}
        first: dict[tuple[str, str], int] = {}
        refusals: list[Outcome | None] = []
        for debit in debits:
            name = debit.tenant, debit.reference
            if name in first:
                refusals.append(None if first[name] == debit.credits else Conflict(debit.reference))
                continue
            first[name] = debit.credits
            refusal = self._refusal(debit, debited.get(debit.tenant, 0))
            if refusal is None:
                debited[debit.tenant] = debited.get(debit.tenant, 0) + debit.credits
            refusals.append(refusal)
        if any(refusal is not None and not isinstance(refusal, Posted) for refusal in refusals):
            return DebitOutcomes(tuple(refusal or Withheld() for refusal in refusals))
        return DebitOutcomes(tuple(self._debit(debit) for debit in debits))

    def _hold(self, command: Hold) -> Outcome:
        book = self._book(command.tenant)
        if book is None:
            return UnknownTenant()
        hashed = input_hash(Kind.HOLD, -command.credits)
        known = self._posted_by_product(book, command.reference)
        hold = book.holds.get(command.reference)
        if known is not None:
            if hold is None or known.input_hash != hashed:
                return Conflict(command.reference)
            return _held(hold, known.available_after, known.version, repeated=True)
        if hold is not None:  # its transfer is in the archive
            return _ended(hold) if hold.credits == command.credits else Conflict(command.reference)
        if command.credits > book.available:
            return Insufficient(book.available)
        hold = book.hold(command, hashed)
        self._posted(book.transfers[-1])
        return _held(hold, book.available, book.version)

    def _capture(self, command: Capture) -> Outcome:
        book = self._book(command.tenant)
        if book is None:
            return UnknownTenant()
        hold = book.holds.get(command.hold)
        if hold is None:
            return UnknownHold()
        if hold.status is not HoldStatus.OPEN:
            same = hold.status is HoldStatus.CAPTURED and hold.captured == command.credits
            return _ended(hold) if same else HoldEnded(hold.status, hold.captured)
        beyond = command.credits - hold.credits
        if beyond > 0 and beyond > book.spendable(command.may_overdraw):
            return Insufficient(hold.credits + book.available)
        if not book.stays_in_range(-command.credits):
            return BalanceOutOfRange()
        return _ended(book.capture(hold, command), repeated=False)

    def _release(self, command: Release) -> Outcome:
        book = self._book(command.tenant)
        if book is None:
            return UnknownTenant()
        hold = book.holds.get(command.hold)
        if hold is None:
            return UnknownHold()
        if hold.status is HoldStatus.OPEN:
            return _ended(book.release(hold), repeated=False)
        return HoldEnded(hold.status, hold.captured) if hold.status is HoldStatus.CAPTURED else _ended(hold)

    def _promote_or_adjust(self, command: Promotion | Adjustment) -> Outcome:
        book = self._book(command.tenant)
        if book is None:
            return UnknownTenant()
        kind = Kind.PROMOTION if isinstance(command, Promotion) else Kind.ADJUSTMENT
        known = self._references.get((command.tenant, Namespace.OPERATOR, command.reference))
        if known is not None:
            same = known.input_hash == input_hash(kind, command.credits)
            return _repeated(known) if same else Conflict(command.reference)
        if not book.stays_in_range(command.credits):
            return BalanceOutOfRange()
        return self._posted(book.promote(command) if isinstance(command, Promotion) else book.adjust(command))

    def _credit(self, command: Credit) -> Outcome:
        intent = self._intent(command.payment_intent)
        known = intent.credit
        if known is not None:
            if (known.tenant, known.kind, known.credits, known.amount_minor, known.currency) != (
                command.tenant, command.kind, command.credits, command.amount_minor, command.currency,
            ):  # fmt: skip
                # An operator has decided what this receipt buys; its event does not change that.
                is_decided = intent.receipt_tenant is not None and not command.by_operator
                return NothingPosted() if is_decided else Conflict(command.payment_intent)
            first = self._references.get((command.tenant, Namespace.STRIPE, command.payment_intent))
            return NothingPosted() if first is None else _repeated(first)  # None: its transfer is in the archive
        is_copy = any(order in self._orders for order in command.orders)
        if is_copy and not command.by_operator:
            return self._receipt(_copied(command))
        book = self._book(command.tenant) or self._open_book(command.tenant)
        if not book.stays_in_range(command.credits):
            return BalanceOutOfRange()
        transfer, credit = book.credit(command)
        outcome = self._posted(transfer)
        if is_copy:  # the entry still names the purchase or attempt, so that payments and recharge can end it
            credit = replace(credit, purchase=None, attempt=None)
        else:
            self._orders.update(dict.fromkeys(command.orders, command.payment_intent))
        if intent.receipt_tenant is not None:
            self._resolved_receipts.append((intent.receipt_tenant, intent.id))
        self._intents[intent.id] = replace(intent, credit=credit, refunds={}, disputes={})
        self._apply_early_reversals(before_credit=intent)
        return outcome

    def _apply_early_reversals(self, before_credit: PaymentIntent) -> None:
        """Applies the reversals that came before the credit, one by one, so that each has an entry of its own."""
        for refund, state in sorted(before_credit.refunds.items()):
            intent = self._intent(before_credit.id)
            if _differs(intent, state.currency):
                self._keep_refused(intent, RefusedReversal(refund, state.amount_minor, state.currency, state.is_void))
                continue
            seen = replace(intent, refunds={**intent.refunds, refund: state})
            self._reverse_to(seen, refund, Kind.REFUND, state.amount_minor)
        for dispute, moved in sorted(before_credit.disputes.items()):
            intent = self._intent(before_credit.id)
            if _differs(intent, moved.currency):
                self._keep_refused_dispute(intent.id, dispute, moved)
                continue
            seen = replace(intent, disputes={**intent.disputes, dispute: moved})
            self._reverse_to(seen, f"{dispute}:withdrawn", Kind.DISPUTE, withdrawn_minor(moved))

    def _refund(self, command: RefundSeen) -> Outcome:
        before = self._intent(command.payment_intent)
        counted = before.refunds.get(command.refund)
        if _differs(before, command.currency) and not _was_counted(counted, command.currency):
            is_void = command.status in VOID_REFUND_STATUSES
            return self._keep_refused(
                before, RefusedReversal(command.refund, command.amount_minor, command.currency, is_void)
            )
        after = with_refund(before, command)
        if after is before:
            return NothingPosted()
        is_void = after.refunds[command.refund].is_void
        reference = f"{command.refund}:{command.status}" if is_void else command.refund
        return self._reverse_to(after, reference, Kind.REFUND, command.amount_minor)

    def _dispute(self, command: DisputeSeen) -> Outcome:
        before = self._intent(command.payment_intent)
        counted = before.disputes.get(command.dispute)
        if _differs(before, command.currency) and not _was_counted(counted, command.currency):
            return self._keep_refused_funds(
                before, command.dispute, command.moved, command.amount_minor, command.currency
            )
        after = with_dispute(before, command)
        if after is before:
            return NothingPosted()
        kind = Kind.DISPUTE if command.moved == "withdrawn" else Kind.DISPUTE_WON
        return self._reverse_to(after, f"{command.dispute}:{command.moved}", kind, command.amount_minor)

    def _reverse_to(self, intent: PaymentIntent, reference: str, kind: Kind, amount_minor: int) -> Outcome:
        """Records the reversal. Without a credit it waits; else posts the difference between the credits to be reversed
        now and those reversed so far."""
        self._intents[intent.id] = intent
        if intent.credit is None:
            return Waiting()
        target = credits_to_reverse(intent.credit, intent)
        difference = target - intent.credit.reversed_credits
        if difference == 0:
            return NothingPosted()
        book = self._book(intent.credit.tenant)
        assert book is not None, "who was credited has a balance"
        if not book.stays_in_range(-difference):
            return BalanceOutOfRange()
        transfer = book.reverse(intent, reference=reference, kind=kind, credits=difference, amount_minor=amount_minor)
        self._intents[intent.id] = replace(intent, credit=replace(intent.credit, reversed_credits=target))
        return self._posted(transfer)

    def _keep_refused(self, intent: PaymentIntent, refused: RefusedReversal) -> Outcome:
        """Keeps a reversal in another currency as refused and moves no credits. It is published once, unless void."""
        assert intent.credit is not None, "only a credit has a currency to differ from"
        known = intent.refused.get(refused.reference)
        if known is not None and (known.is_void or not refused.is_void):
            return NothingPosted()
        changed = self._intents[intent.id] = replace(intent, refused={**intent.refused, refused.reference: refused})
        if refused.is_void:
            return NothingPosted()
        self._refused.append((changed, refused))
        return CurrencyDiffers(intent.credit.currency)

    def _keep_refused_dispute(self, payment_intent: str, dispute: str, moved: DisputeState) -> None:
        for name, amount_minor in (("withdrawn", moved.withdrawn_minor), ("reinstated", moved.reinstated_minor)):
            if amount_minor:
                self._keep_refused_funds(self._intent(payment_intent), dispute, name, amount_minor, moved.currency)

    def _keep_refused_funds(
        self, intent: PaymentIntent, dispute: str, moved: str, amount_minor: int, currency: str
    ) -> Outcome:
        """As `_keep_refused`. A dispute whose funds were withdrawn and reinstated is void: nobody has to look at it."""
        other = intent.refused.get(f"{dispute}:{'reinstated' if moved == 'withdrawn' else 'withdrawn'}")
        is_void = other is not None and (other.amount_minor, other.currency) == (amount_minor, currency)
        outcome = self._keep_refused(intent, RefusedReversal(f"{dispute}:{moved}", amount_minor, currency, is_void))
        if other is not None and is_void:
            self._keep_refused(self._intent(intent.id), replace(other, is_void=True))
        return outcome

    def _receipt(self, command: UnappliedReceipt) -> Outcome:
        intent = self._intent(command.payment_intent)
        if intent.credit is None and intent.receipt_tenant is None:
            self._intents[intent.id] = replace(intent, receipt_tenant=command.claimed_tenant)
            self._receipts.append(command)
        return NothingPosted()

    def _posted(self, transfer: Transfer) -> Posted:
        self._references[transfer.tenant, transfer.namespace, transfer.reference] = transfer
        return Posted(
            transfer.version, transfer.credits, transfer.available_after, transfer.created_at,
            over_overdraft_limit=transfer.over_overdraft_limit,
        )  # fmt: skip

    def _intent(self, payment_intent: str) -> PaymentIntent:
        changed = self._intents.get(payment_intent)
        return changed or self._state.payment_intents.get(payment_intent) or PaymentIntent(payment_intent)

    def _book(self, tenant: str) -> Book | None:
        """The tenant's book, in which grants and holds whose time is over are ended; None for an unknown tenant."""
        book = self._books.get(tenant)
        if book is None and (balance := self._state.balances.get(tenant)) is not None:
            grants, holds = self._state.grants.get(tenant, ()), self._state.holds.get(tenant, ())
            book = self._books[tenant] = Book(balance, grants, self._now, holds)
            book.end_due()
        return book

    def _open_book(self, tenant: str) -> Book:
        book = self._books[tenant] = Book(Balance.empty(tenant, self._now), (), self._now)
        return book


def _repeated(known: PostedReference | Transfer) -> Posted:
    return Posted(known.version, known.credits, known.available_after, known.created_at, repeated=True)


def _differs(intent: PaymentIntent, currency: str) -> bool:
    """Whether the currency is another than that of the credit."""
    return intent.credit is not None and currency not in {"", intent.credit.currency}


def _was_counted(known: RefundState | DisputeState | None, currency: str) -> bool:
    """Whether the reversal was counted in this currency. Rows from before the currency was stored have an empty one:
    their reversals were counted in the currency of the credit."""
    return known is not None and known.currency in {"", currency}


def _copied(command: Credit) -> UnappliedReceipt:
    return UnappliedReceipt(
        claimed_tenant=command.tenant,
        payment_intent=command.payment_intent,
        amount_minor=command.amount_minor,
        currency=command.currency,
        reason=ORDER_ALREADY_CREDITED,
        purchase=command.purchase,
        attempt=command.attempt,
    )


def _held(hold: HoldState, available_after: int, version: int, *, repeated: bool = False) -> Held:
    return Held(
        reference=hold.reference,
        credits=hold.credits,
        status=hold.status,
        captured=hold.captured,
        expires_at=hold.expires_at,
        available_after=available_after,
        version=version,
        repeated=repeated,
    )


def _ended(hold: HoldState, *, repeated: bool = True) -> Held:
    assert hold.ended_available is not None and hold.ended_version is not None, "the hold has ended"
    return _held(hold, hold.ended_available, hold.ended_version, repeated=repeated)
