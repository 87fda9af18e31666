"""One tenant's book while a batch is planned: every way in which its credits can move."""

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from itertools import islice

from ledger.core.accounts import COUNTER_ACCOUNT, CREDITS_MAX, PAID_CREDITS_PRIORITY, Account, Kind, Namespace
from ledger.core.commands import Adjustment, Capture, Credit, Hold, HoldStatus, Promotion, Usage, input_hash
from ledger.core.grants import Lots, Moves
from ledger.core.state import Balance, CreditOfIntent, DayUsage, Grant, GrantChange, HoldState, Transfer, UsageRun

#: How many purposes of a day are told apart; further ones are counted together.
PURPOSES_MAX = 100


class Book:
    """A balance, its lots and its holds, changed step by step. Times never go back within a book."""

    def __init__(
        self, balance: Balance, grants: Sequence[Grant], now: datetime, holds: Sequence[HoldState] = ()
    ) -> None:
        self.tenant = balance.tenant
        self.version = balance.version
        self.balance = balance.balance
        self.held = balance.held
        self.owed = balance.owed
        self.receivable = balance.receivable
        self.overdraft_limit = balance.overdraft_limit
        self.now = max(now, balance.changed_at)
        self._today = self.now.date()
        self.transfers: list[Transfer] = []
        self.runs: list[UsageRun] = []
        #: Of each reference in `runs`, the version that its debit brought the balance to.
        self.run_versions: dict[str, int] = {}
        self._run: UsageRun | None = None
        self.new_grants: dict[int, Grant] = {}
        self._holds_before = {hold.reference: hold for hold in holds} if holds else {}
        self.holds = self._holds_before.copy()
        self._before = balance
        self._grants_made = balance.grants_made
        self._usage_day: date | None = balance.usage.day
        self._usage_by_purpose = dict(balance.usage.by_purpose)
        self._usage_of_others = balance.usage.of_other_purposes
        self._lots = Lots(grants)

    @property
    def available(self) -> int:
        """Credits that can be spent; negative where the tenant owes."""
        return self.balance - self.held

    def spendable(self, may_overdraw: bool) -> int:
        """The most that a request may debit."""
        return self.available + (self.overdraft_limit if may_overdraw else 0)

    def stays_in_range(self, change: int) -> bool:
        """Whether the balance stays within what numbers can carry."""
        return abs(self.balance + change) <= CREDITS_MAX and self.owed - min(change, 0) <= CREDITS_MAX

    def end_due(self) -> None:
        """Releases every hold whose time is over, soonest first, then takes the rest of every such grant, each in its
        own transfer."""
        if self.holds:
            open_holds = [each for each in self.holds.values() if each.status is HoldStatus.OPEN]
            due = [each for each in open_holds if each.expires_at <= self.now]
            for hold in sorted(due, key=lambda each: (each.expires_at, each.reference)):
                self.release(hold, HoldStatus.EXPIRED)
        self._expire_due()

    def append_to_run(self, usage: Usage) -> bool:
        """Adds the debit to a run, if one lot covers it and has credits left, and the overdraft limit is kept. Nearly
        all debits of a busy ledger are in runs, and have no `Transfer` of their own. Else changes nothing: False."""
        credits = usage.credits
        balance = self.balance - credits
        if balance - self.held < -self.overdraft_limit or (number := self._lots.burn_from_first(credits)) is None:
            return False
        run = self._run
        self.version = version = self.version + 1
        if run is None or run.grant_number != number:
            run = self._begin_run(number)
        self.balance = balance
        run.debits.append(usage)
        self.run_versions[usage.reference] = version
        return True

    def spend(self, usage: Usage) -> Transfer:
        """Burns lots; what they do not cover is owed."""
        moves, missing = self._lots.burn(usage.credits)
        self._end_run()
        self._count_usage(usage.purpose, usage.credits)
        return self._post(
            Namespace.PRODUCT, usage.reference, Kind.USAGE, -usage.credits, moves=moves, owed_change=missing,
            purpose=usage.purpose, occurred_at=usage.occurred_at,
        )  # fmt: skip

    def transfer_in_run(self, reference: str) -> Transfer | None:
        """The transfer that will be written for a debit of this batch, if it is in a run."""
        version = self.run_versions.get(reference)
        if version is None:
            return None
        [run] = [each for each in self.runs if 0 <= version - each.first_version < len(each.debits)]
        return next(islice(run.transfers(), version - run.first_version, None))

    def hold(self, command: Hold, hashed: bytes) -> HoldState:
        """Moves credits that are available from their lots into a hold."""
        moves, missing = self._lots.burn(command.credits)
        assert not missing, "what is available is in lots"
        self._lots.hold(moves)
        self.held += command.credits
        self._post(Namespace.PRODUCT, command.reference, Kind.HOLD, -command.credits, moves=moves, hashed=hashed,
                   purpose=command.purpose)  # fmt: skip
        state = HoldState(
            self.tenant, command.reference, command.credits, command.purpose, HoldStatus.OPEN, 0, moves[0],
            [-credits for credits in moves[1]], command.expires_at, self.now,
        )  # fmt: skip
        self.holds[command.reference] = state
        return state

    def capture(self, hold: HoldState, command: Capture) -> HoldState:
        """Uses the hold's lots in their order, releases the rest, and debits what goes beyond."""
        of_hold = min(hold.credits, command.credits)
        numbers, amounts = _first_lots(hold, of_hold)
        for number, credits in zip(numbers, amounts, strict=True):
            self._lots.unhold(number, credits)
        self._end_run()
        self.held -= of_hold
        self._count_usage(hold.purpose, command.credits)
        self._post(Namespace.SYSTEM, f"hold:{hold.reference}:capture", Kind.CAPTURE, -of_hold, source=Account.HELD,
                   moves=(numbers, [-credits for credits in amounts]), purpose=hold.purpose)  # fmt: skip
        self._release_remainder(hold, of_hold)
        if command.credits > of_hold:
            moves, missing = self._lots.burn(command.credits - of_hold)
            self._post(Namespace.SYSTEM, f"hold:{hold.reference}:beyond", Kind.USAGE, of_hold - command.credits,
                       moves=moves, owed_change=missing, purpose=hold.purpose)  # fmt: skip
        self._expire_due()
        return self._end_hold(hold, HoldStatus.CAPTURED, command.credits)

    def release(self, hold: HoldState, status: HoldStatus = HoldStatus.RELEASED) -> HoldState:
        """Gives the hold's credits back: to what is owed first, the rest to their lots."""
        self._release_remainder(hold, 0)
        self._expire_due()
        return self._end_hold(hold, status, 0)

    def credit(self, command: Credit) -> tuple[Transfer, CreditOfIntent]:
        """Grants what a PaymentIntent bought."""
        expires_at = None if command.expires_in_days is None else self.now + timedelta(days=command.expires_in_days)
        transfer = self._grant(
            Namespace.STRIPE, command.payment_intent, command.kind, command.credits, PAID_CREDITS_PRIORITY, expires_at,
            amount_minor=command.amount_minor, currency=command.currency, payment_intent=command.payment_intent,
            purchase=command.purchase, attempt=command.attempt,
        )  # fmt: skip
        credited = CreditOfIntent(
            self.tenant, self._grants_made, command.kind, command.credits, command.amount_minor, command.currency,
            command.purchase, command.attempt, reversed_credits=0,
        )  # fmt: skip
        return transfer, credited

    def promote(self, command: Promotion) -> Transfer:
        """Grants what an operator gives; it is gone at once where its time is over already."""
        transfer = self._grant(
            Namespace.OPERATOR, command.reference, Kind.PROMOTION, command.credits, command.priority,
            command.expires_at, purpose=command.reason,
        )  # fmt: skip
        self._expire_due()
        return transfer

    def adjust(self, command: Adjustment) -> Transfer:
        """Grants, or burns lots; what they do not cover is owed."""
        if command.credits > 0:
            return self._grant(
                Namespace.OPERATOR, command.reference, Kind.ADJUSTMENT, command.credits, PAID_CREDITS_PRIORITY, None,
                purpose=command.reason,
            )  # fmt: skip
        moves, missing = self._lots.burn(-command.credits)
        return self._post(
            Namespace.OPERATOR, command.reference, Kind.ADJUSTMENT, command.credits, moves=moves, owed_change=missing,
            purpose=command.reason,
        )  # fmt: skip

    def reverse(
        self, credit: CreditOfIntent, payment_intent: str, reference: str, kind: Kind, credits: int, amount_minor: int
    ) -> Transfer:
        """Takes `credits` back from the grant of `credit`: first what has expired, which is not lost twice, then what
        is left; what it has spent, or holds, becomes a receivable. So it ends the same as if it had come before the
        expiry.

        With negative `credits` a reversal is undone: debt is paid first, the rest returns to the grant, or expires with
        it.
        """
        number = credit.grant_number
        if credits > 0:
            self._reverse_expiry(number, credits)
            taken = self._lots.reverse(number, credits)
            moves: Moves = [number], [-taken]
            owed_change = receivable_change = credits - taken
        else:
            paid, receivable_paid = self._pay_debt(-credits)
            owed_change, receivable_change = -paid, -receivable_paid
            self._lots.unreverse(number, -credits)
            moves = self._incoming_moves([number], [-credits], paid, receivable_paid)
        transfer = self._post(
            Namespace.STRIPE, reference, kind, -credits,
            moves=moves, owed_change=owed_change, receivable_change=receivable_change,
            amount_minor=amount_minor, currency=credit.currency, payment_intent=payment_intent,
            purchase=credit.purchase, attempt=credit.attempt,
        )  # fmt: skip
        self._expire_due()
        return transfer

    @property
    def has_changed(self) -> bool:
        """Whether anything was posted."""
        return self.version != self._before.version

    def closing_balance(self) -> Balance:
        """The balance after all that was posted."""
        self._end_run()
        usage = DayUsage(self._usage_day, self._usage_by_purpose, self._usage_of_others)
        return Balance(
            self.tenant, self.version, self.balance, self.held, self.owed, self.receivable, self._grants_made, usage,
            self.now if self.has_changed else self._before.changed_at, self.overdraft_limit,
        )  # fmt: skip

    def closing_grants(self) -> tuple[list[Grant], list[GrantChange]]:
        """Grants made, as they are now, and what has become of older ones."""
        made: list[Grant] = []
        for number, grant in self.new_grants.items():
            made.append(grant._replace(**self._lots.amounts(number)._asdict()))
        return made, list(self._lots.changes(self.tenant, self.new_grants))

    def closing_holds(self) -> tuple[list[HoldState], list[HoldState]]:
        """Holds made, as they are now, and older ones that have ended."""
        made = [hold for name, hold in self.holds.items() if name not in self._holds_before]
        ended = [hold for name, hold in self.holds.items() if hold is not self._holds_before.get(name, hold)]
        return made, ended

    def _expire_due(self) -> None:
        """What expires pays what is owed first: it comes back for that. So no more is lost than was available."""
        for lot in self._lots.due(self.now):
            remainder = self._lots.expire(lot.number)
            self._post(
                Namespace.SYSTEM,
                f"expiry:{lot.number}:{self.version + 1}",
                Kind.EXPIRY,
                -remainder,
                moves=([lot.number], [-remainder]),
            )
            paid, receivable_paid = self._pay_debt(remainder)
            self._reverse_expiry(lot.number, paid, paid, receivable_paid)

    def _reverse_expiry(self, number: int, credits: int, paid: int = 0, receivable_paid: int = 0) -> None:
        """Returns up to `credits` that have expired to their grant: for a reversal to take, or to pay what is owed."""
        returned = self._lots.unexpire(number, credits)
        if returned:
            moves = self._incoming_moves([number], [returned], paid, receivable_paid)
            self._post(
                Namespace.SYSTEM, f"expiry_reversal:{number}:{self.version + 1}", Kind.EXPIRY_REVERSAL, returned,
                moves=moves, owed_change=-paid, receivable_change=-receivable_paid,
            )  # fmt: skip

    def _grant(
        self,
        namespace: Namespace,
        reference: str,
        kind: Kind,
        credits: int,
        priority: int,
        expires_at: datetime | None,
        *,
        amount_minor: int | None = None,
        currency: str | None = None,
        payment_intent: str | None = None,
        purchase: str | None = None,
        attempt: str | None = None,
        purpose: str | None = None,
    ) -> Transfer:
        """Pays what is owed, the receivable first, and makes a grant of the whole with the rest left in it."""
        paid, receivable_paid = self._pay_debt(credits)
        self._grants_made += 1
        number = self._grants_made
        grant = Grant(
            self.tenant, number, namespace, reference, payment_intent, credits, credits, priority, expires_at, self.now,
        )  # fmt: skip
        self.new_grants[number] = grant
        self._lots.add(grant)
        moves = self._incoming_moves([number], [credits], paid, receivable_paid)
        return self._post(
            namespace, reference, kind, credits, moves=moves, owed_change=-paid,
            receivable_change=-receivable_paid, amount_minor=amount_minor, currency=currency,
            payment_intent=payment_intent, purchase=purchase, attempt=attempt, purpose=purpose,
        )  # fmt: skip

    def _release_remainder(self, hold: HoldState, captured: int) -> None:
        """Releases what the first `captured` credits of a hold leave of it."""
        remainder = hold.credits - captured
        if not remainder:
            return
        kept = dict(zip(*_first_lots(hold, captured), strict=True))
        paid, receivable_paid = self._pay_debt(remainder)
        numbers: list[int] = []
        returned: list[int] = []
        for number, credits in zip(hold.grant_numbers, hold.grant_credits, strict=True):
            if credits > kept.get(number, 0):
                numbers.append(number)
                returned.append(credits - kept.get(number, 0))
                self._lots.unhold(number, returned[-1])
                self._lots.put_back(number, returned[-1])
        moves = self._incoming_moves(numbers, returned, paid, receivable_paid)
        self.held -= remainder
        self._post(
            Namespace.SYSTEM, f"hold:{hold.reference}:release", Kind.RELEASE, remainder, moves=moves,
            owed_change=-paid, receivable_change=-receivable_paid, purpose=hold.purpose,
        )  # fmt: skip

    def _end_hold(self, hold: HoldState, status: HoldStatus, captured: int) -> HoldState:
        ended = hold._replace(
            status=status, captured=captured, ended_at=self.now, ended_version=self.version,
            ended_available=self.available,
        )  # fmt: skip
        self.holds[hold.reference] = ended
        return ended

    def _incoming_moves(self, numbers: Sequence[int], credits: Sequence[int], paid: int, receivable_paid: int) -> Moves:
        """The moves of credits that have come to lots, and, after them, of what the first of these pay of a debt."""
        payers: list[int] = []
        payments: list[int] = []
        for number, of_grant in zip(numbers, credits, strict=True):
            if paid:
                payers.append(number)
                payments.append(-min(of_grant, paid))
                paid += payments[-1]
        self._lots.pay_debt((payers, payments), receivable_paid)
        return [*numbers, *payers], [*credits, *payments]

    def _pay_debt(self, credits: int) -> tuple[int, int]:
        paid = min(credits, self.owed)
        receivable_paid = min(paid, self.receivable)
        return paid, receivable_paid

    def _begin_run(self, grant_number: int) -> UsageRun:
        self._end_run()
        run = self._run = UsageRun(
            self.tenant, self.version, self.balance, self.held, self.owed, self.receivable, grant_number, self.now, []
        )
        self.runs.append(run)
        return run

    def _end_run(self) -> None:
        """Whatever follows is no part of the present run."""
        if self._run is not None:
            by_purpose: dict[str, int] = {}
            for _tenant, _reference, credits, purpose, _occurred_at in self._run.debits:
                by_purpose[purpose] = by_purpose.get(purpose, 0) + credits
            for purpose, credits in by_purpose.items():
                self._count_usage(purpose, credits)
            self._run = None

    def _count_usage(self, purpose: str, credits: int) -> None:
        if self._usage_day != self._today:
            self._usage_day, self._usage_by_purpose, self._usage_of_others = self._today, {}, 0
        if purpose in self._usage_by_purpose:
            self._usage_by_purpose[purpose] += credits
        elif len(self._usage_by_purpose) < PURPOSES_MAX:
            self._usage_by_purpose[purpose] = credits
        else:
            self._usage_of_others += credits

    def _post(
        self,
        namespace: Namespace,
        reference: str,
        kind: Kind,
        change: int,
        *,
        moves: Moves,
        source: Account = Account.AVAILABLE,
        owed_change: int = 0,
        receivable_change: int = 0,
        hashed: bytes | None = None,
        purpose: str | None = None,
        occurred_at: datetime | None = None,
        amount_minor: int | None = None,
        currency: str | None = None,
        payment_intent: str | None = None,
        purchase: str | None = None,
        attempt: str | None = None,
    ) -> Transfer:
        """Credits come to `source` (`change` > 0) or leave it for the account that the kind names."""
        assert change == sum(moves[1]) - owed_change, "grants and debt must account for every credit"
        self._end_run()
        self.version += 1
        counter = COUNTER_ACCOUNT[kind]
        if counter is not Account.HELD:
            self.balance += change
        self.owed += owed_change
        self.receivable += receivable_change
        source, destination = (counter, source) if change > 0 else (source, counter)
        transfer = Transfer(
            self.tenant, namespace, reference, hashed or input_hash(kind, change, amount_minor, currency), kind,
            source, destination, abs(change), self.version, self.balance, self.available, self.owed, self.receivable,
            moves[0], moves[1], self.now, purpose, occurred_at, amount_minor, currency,
            payment_intent, purchase, attempt, kind is Kind.USAGE and self.available < -self.overdraft_limit,
        )  # fmt: skip
        self.transfers.append(transfer)
        return transfer


def _first_lots(hold: HoldState, credits: int) -> tuple[list[int], list[int]]:
    """The hold's lots that its first `credits` come from, and how many of each."""
    numbers: list[int] = []
    amounts: list[int] = []
    for number, of_lot in zip(hold.grant_numbers, hold.grant_credits, strict=True):
        taken = min(of_lot, credits)
        if not taken:
            break
        numbers.append(number)
        amounts.append(taken)
        credits -= taken
    return numbers, amounts
