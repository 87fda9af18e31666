"""One tenant's book while a batch is planned: each way in which its credits can move is a method."""

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from itertools import islice

from ledger.core.accounts import COUNTER_ACCOUNT, CREDITS_MAX, PAID_CREDITS_PRIORITY, Account, Kind, Namespace
from ledger.core.commands import Adjustment, Capture, Credit, Hold, HoldStatus, Promotion, Usage, input_hash
from ledger.core.grants import GrantMoves, Lots
from ledger.core.state import (
    Balance,
    CreditOfIntent,
    DayUsage,
    DebtChange,
    Grant,
    GrantChange,
    HoldState,
    PaymentIntent,
    Transfer,
    TransferDetails,
    UsageRun,
)

#: How many purposes of a day are counted by name; further ones are counted together.
PURPOSES_MAX = 100

_NO_DEBT = DebtChange()
_NO_DETAILS = TransferDetails()


class Book:
    """A tenant's balance, lots and holds, and the transfers that change them. Its times never decrease, even if clocks
    differ."""

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
        """Whether the balance and the debt stay within `CREDITS_MAX`."""
        return abs(self.balance + change) <= CREDITS_MAX and self.owed - min(change, 0) <= CREDITS_MAX

    def end_due(self) -> None:
        """Releases the holds whose time is over, soonest first, then expires such grants. Each has a transfer
        of its own."""
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
            Namespace.PRODUCT,
            usage.reference,
            Kind.USAGE,
            -usage.credits,
            moves=moves,
            debt=DebtChange(owed=missing),
            details=TransferDetails(purpose=usage.purpose, occurred_at=usage.occurred_at),
        )

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
        self._post(
            Namespace.PRODUCT,
            command.reference,
            Kind.HOLD,
            -command.credits,
            moves=moves,
            details=TransferDetails(purpose=command.purpose),
            hashed=hashed,
        )
        state = HoldState(
            tenant=self.tenant,
            reference=command.reference,
            credits=command.credits,
            purpose=command.purpose,
            status=HoldStatus.OPEN,
            captured=0,
            grant_numbers=moves.grant_numbers,
            grant_credits=[-credits for credits in moves.credits],
            expires_at=command.expires_at,
            created_at=self.now,
        )
        self.holds[command.reference] = state
        return state

    def capture(self, hold: HoldState, command: Capture) -> HoldState:
        """Spends the hold's lots in their order, releases the rest, and debits what goes beyond the hold."""
        of_hold = min(hold.credits, command.credits)
        numbers, amounts = _first_lots(hold, of_hold)
        for number, credits in zip(numbers, amounts, strict=True):
            self._lots.unhold(number, credits)
        self._end_run()
        self.held -= of_hold
        self._count_usage(hold.purpose, command.credits)
        details = TransferDetails(purpose=hold.purpose)
        self._post(
            Namespace.SYSTEM,
            f"hold:{hold.reference}:capture",
            Kind.CAPTURE,
            -of_hold,
            source=Account.HELD,
            moves=GrantMoves(numbers, [-credits for credits in amounts]),
            details=details,
        )
        self._release_remainder(hold, of_hold)
        if command.credits > of_hold:
            moves, missing = self._lots.burn(command.credits - of_hold)
            self._post(
                Namespace.SYSTEM,
                f"hold:{hold.reference}:beyond",
                Kind.USAGE,
                of_hold - command.credits,
                moves=moves,
                debt=DebtChange(owed=missing),
                details=details,
            )
        self._expire_due()
        return self._end_hold(hold, HoldStatus.CAPTURED, command.credits)

    def release(self, hold: HoldState, status: HoldStatus = HoldStatus.RELEASED) -> HoldState:
        """Gives the hold's credits back: they pay what is owed first, and the rest returns to its lots."""
        self._release_remainder(hold, 0)
        self._expire_due()
        return self._end_hold(hold, status, 0)

    def credit(self, command: Credit) -> tuple[Transfer, CreditOfIntent]:
        """Grants what a PaymentIntent bought."""
        expires_at = None if command.expires_in_days is None else self.now + timedelta(days=command.expires_in_days)
        transfer = self._grant(
            Namespace.STRIPE,
            command.payment_intent,
            command.kind,
            command.credits,
            priority=PAID_CREDITS_PRIORITY,
            expires_at=expires_at,
            details=TransferDetails(
                amount_minor=command.amount_minor,
                currency=command.currency,
                payment_intent=command.payment_intent,
                purchase=command.purchase,
                attempt=command.attempt,
            ),
        )
        credited = CreditOfIntent(
            tenant=self.tenant,
            grant_number=self._grants_made,
            kind=command.kind,
            credits=command.credits,
            amount_minor=command.amount_minor,
            currency=command.currency,
            purchase=command.purchase,
            attempt=command.attempt,
            reversed_credits=0,
        )
        return transfer, credited

    def promote(self, command: Promotion) -> Transfer:
        """Grants what an operator gives. Credits whose time is over already expire at once."""
        transfer = self._grant(
            Namespace.OPERATOR,
            command.reference,
            Kind.PROMOTION,
            command.credits,
            priority=command.priority,
            expires_at=command.expires_at,
            details=TransferDetails(purpose=command.reason),
        )
        self._expire_due()
        return transfer

    def adjust(self, command: Adjustment) -> Transfer:
        """Grants credits, or burns lots; what they do not cover is owed."""
        details = TransferDetails(purpose=command.reason)
        if command.credits > 0:
            return self._grant(
                Namespace.OPERATOR,
                command.reference,
                Kind.ADJUSTMENT,
                command.credits,
                priority=PAID_CREDITS_PRIORITY,
                expires_at=None,
                details=details,
            )
        moves, missing = self._lots.burn(-command.credits)
        return self._post(
            Namespace.OPERATOR,
            command.reference,
            Kind.ADJUSTMENT,
            command.credits,
            moves=moves,
            debt=DebtChange(owed=missing),
            details=details,
        )

    def reverse(
        self, intent: PaymentIntent, *, reference: str, kind: Kind, credits: int, amount_minor: int
    ) -> Transfer:
        """Takes `credits` back from the grant that the PaymentIntent bought: first those that have expired, then those
        that are left. What it has spent, or holds, becomes a receivable. So the end is the same as if the reversal had
        come before the expiry.

        Negative `credits` undo a reversal: they pay debt first, and the rest returns to the grant, or expires with it.
        """
        credit = intent.credit
        assert credit is not None, "only a credit is reversed"
        number = credit.grant_number
        if credits > 0:
            self._reverse_expiry(number, credits)
            taken = self._lots.reverse(number, credits)
            moves = GrantMoves([number], [-taken])
            debt = DebtChange(owed=credits - taken, receivable=credits - taken)
        else:
            debt = self._debt_paid_by(-credits)
            self._lots.unreverse(number, -credits)
            moves = self._incoming_moves([number], [-credits], debt)
        transfer = self._post(
            Namespace.STRIPE,
            reference,
            kind,
            -credits,
            moves=moves,
            debt=debt,
            details=TransferDetails(
                amount_minor=amount_minor,
                currency=credit.currency,
                payment_intent=intent.id,
                purchase=credit.purchase,
                attempt=credit.attempt,
            ),
        )
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
            tenant=self.tenant,
            version=self.version,
            balance=self.balance,
            held=self.held,
            owed=self.owed,
            receivable=self.receivable,
            grants_made=self._grants_made,
            usage=usage,
            changed_at=self.now if self.has_changed else self._before.changed_at,
            overdraft_limit=self.overdraft_limit,
        )

    def closing_grants(self) -> tuple[list[Grant], list[GrantChange]]:
        """Grants that the batch made, as they are now, and the changes of older ones."""
        made: list[Grant] = []
        for number, grant in self.new_grants.items():
            made.append(grant._replace(**self._lots.amounts(number)._asdict()))
        return made, list(self._lots.changes(self.tenant, self.new_grants))

    def closing_holds(self) -> tuple[list[HoldState], list[HoldState]]:
        """Holds that the batch made, as they are now, and older ones that it ended."""
        made = [hold for name, hold in self.holds.items() if name not in self._holds_before]
        ended = [hold for name, hold in self.holds.items() if hold is not self._holds_before.get(name, hold)]
        return made, ended

    def _expire_due(self) -> None:
        """Expires lots whose time is over. What is owed is paid first: as much returns from the expiry and pays it. So
        an expiry never takes more than was available."""
        for lot in self._lots.due(self.now):
            expired = self._lots.expire(lot.number)
            reference = f"expiry:{lot.number}:{self.version + 1}"
            moves = GrantMoves([lot.number], [-expired])
            self._post(Namespace.SYSTEM, reference, Kind.EXPIRY, -expired, moves=moves)
            debt = self._debt_paid_by(expired)
            self._reverse_expiry(lot.number, -debt.owed, debt)

    def _reverse_expiry(self, number: int, credits: int, debt: DebtChange = _NO_DEBT) -> None:
        """Returns up to `credits` that have expired to their grant: for a reversal to take, or to pay what is owed."""
        returned = self._lots.unexpire(number, credits)
        if returned:
            reference = f"expiry_reversal:{number}:{self.version + 1}"
            moves = self._incoming_moves([number], [returned], debt)
            self._post(Namespace.SYSTEM, reference, Kind.EXPIRY_REVERSAL, returned, moves=moves, debt=debt)

    def _grant(
        self,
        namespace: Namespace,
        reference: str,
        kind: Kind,
        credits: int,
        *,
        priority: int,
        expires_at: datetime | None,
        details: TransferDetails,
    ) -> Transfer:
        """Makes a grant of all the credits. They pay what is owed first, the receivable before the rest of the debt."""
        debt = self._debt_paid_by(credits)
        self._grants_made += 1
        number = self._grants_made
        grant = Grant(
            tenant=self.tenant,
            number=number,
            namespace=namespace,
            reference=reference,
            payment_intent=details.payment_intent,
            credits=credits,
            remaining=credits,
            priority=priority,
            expires_at=expires_at,
            created_at=self.now,
        )
        self.new_grants[number] = grant
        self._lots.add(grant)
        moves = self._incoming_moves([number], [credits], debt)
        return self._post(namespace, reference, kind, credits, moves=moves, debt=debt, details=details)

    def _release_remainder(self, hold: HoldState, captured: int) -> None:
        """Releases what the first `captured` credits of a hold leave of it."""
        remainder = hold.credits - captured
        if not remainder:
            return
        kept = dict(zip(*_first_lots(hold, captured), strict=True))
        debt = self._debt_paid_by(remainder)
        numbers: list[int] = []
        returned: list[int] = []
        for number, credits in zip(hold.grant_numbers, hold.grant_credits, strict=True):
            if credits > kept.get(number, 0):
                numbers.append(number)
                returned.append(credits - kept.get(number, 0))
                self._lots.unhold(number, returned[-1])
                self._lots.put_back(number, returned[-1])
        moves = self._incoming_moves(numbers, returned, debt)
        self.held -= remainder
        self._post(
            Namespace.SYSTEM,
            f"hold:{hold.reference}:release",
            Kind.RELEASE,
            remainder,
            moves=moves,
            debt=debt,
            details=TransferDetails(purpose=hold.purpose),
        )

    def _end_hold(self, hold: HoldState, status: HoldStatus, captured: int) -> HoldState:
        ended = hold._replace(
            status=status,
            captured=captured,
            ended_at=self.now,
            ended_version=self.version,
            ended_available=self.available,
        )
        self.holds[hold.reference] = ended
        return ended

    def _incoming_moves(self, numbers: Sequence[int], credits: Sequence[int], debt: DebtChange) -> GrantMoves:
        """The moves of credits that come to lots, followed by what the first of these lots pay of a debt."""
        payers: list[int] = []
        payments: list[int] = []
        unpaid = -debt.owed
        for number, of_grant in zip(numbers, credits, strict=True):
            if unpaid:
                payers.append(number)
                payments.append(-min(of_grant, unpaid))
                unpaid += payments[-1]
        self._lots.pay_debt(GrantMoves(payers, payments), -debt.receivable)
        return GrantMoves([*numbers, *payers], [*credits, *payments])

    def _debt_paid_by(self, credits: int) -> DebtChange:
        """How the debt changes when so many credits come in: they pay what is owed, the receivable first."""
        paid = min(credits, self.owed)
        return DebtChange(owed=-paid, receivable=-min(paid, self.receivable))

    def _begin_run(self, grant_number: int) -> UsageRun:
        self._end_run()
        run = self._run = UsageRun(
            self.tenant, self.version, self.balance, self.held, self.owed, self.receivable, grant_number, self.now, []
        )
        self.runs.append(run)
        return run

    def _end_run(self) -> None:
        """Closes the present run: later debits begin another one."""
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
        moves: GrantMoves,
        debt: DebtChange = _NO_DEBT,
        details: TransferDetails = _NO_DETAILS,
        source: Account = Account.AVAILABLE,
        hashed: bytes | None = None,
    ) -> Transfer:
        """Moves credits to `source` (`change` > 0) or from it to the account that the kind names."""
        assert change == sum(moves.credits) - debt.owed, "grants and debt must account for every credit"
        self._end_run()
        self.version += 1
        counter = COUNTER_ACCOUNT[kind]
        if counter is not Account.HELD:
            self.balance += change
        self.owed += debt.owed
        self.receivable += debt.receivable
        available = self.available
        transfer = Transfer(
            tenant=self.tenant,
            namespace=namespace,
            reference=reference,
            input_hash=hashed or input_hash(kind, change, details.amount_minor, details.currency),
            kind=kind,
            source=counter if change > 0 else source,
            destination=source if change > 0 else counter,
            credits=abs(change),
            version=self.version,
            balance_after=self.balance,
            available_after=available,
            owed_after=self.owed,
            receivable_after=self.receivable,
            grant_numbers=moves.grant_numbers,
            grant_credits=moves.credits,
            created_at=self.now,
            purpose=details.purpose,
            occurred_at=details.occurred_at,
            amount_minor=details.amount_minor,
            currency=details.currency,
            payment_intent=details.payment_intent,
            purchase=details.purchase,
            attempt=details.attempt,
            over_overdraft_limit=kind is Kind.USAGE and available < -self.overdraft_limit,
        )
        self.transfers.append(transfer)
        return transfer


def _first_lots(hold: HoldState, credits: int) -> tuple[list[int], list[int]]:
    """The first `credits` of a hold, by lot: grant numbers, and how many credits of each."""
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
