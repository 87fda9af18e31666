"""One tenant's book while a batch is planned: every way in which its credits can move."""

from collections.abc import Iterable
from datetime import date, datetime, timedelta

from ledger.core.accounts import COUNTER_ACCOUNT, CREDITS_MAX, PRIORITY_OF_PAID_CREDITS, Account, Door, Kind
from ledger.core.commands import Credit, input_hash
from ledger.core.grants import Lots, Moves
from ledger.core.state import Balance, CreditOfIntent, DayUsage, Grant, GrantChange, Transfer

#: How many purposes of a day are told apart; further ones are counted together.
PURPOSES_MAX = 100


class Book:
    """A balance and its lots, changed step by step. Times never go back within a book."""

    def __init__(self, balance: Balance, grants: Iterable[Grant], now: datetime) -> None:
        self.tenant = balance.tenant
        self.version = balance.version
        self.balance = balance.balance
        self.held = balance.held
        self.owed = balance.owed
        self.receivable = balance.receivable
        self.now = max(now, balance.changed_at)
        self.transfers: list[Transfer] = []
        self.new_grants: dict[int, Grant] = {}
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

    def can_hold(self, change: int) -> bool:
        """Whether the balance stays within what numbers can carry."""
        return abs(self.balance + change) <= CREDITS_MAX and self.owed - min(change, 0) <= CREDITS_MAX

    def expire_due(self) -> None:
        """Takes the rest of every grant whose time is over, each in a transfer of its own."""
        for lot in self._lots.due(self.now):
            rest = self._lots.take(lot.number, lot.remaining)
            self._post(
                Door.SYSTEM,
                f"expiry:{lot.number}:{self.version + 1}",
                Kind.EXPIRY,
                -rest,
                moves=([lot.number], [-rest]),
            )

    def spend(
        self, reference: str, credits: int, hashed: bytes, purpose: str, occurred_at: datetime | None
    ) -> Transfer:
        """Burns lots; what they do not cover is owed."""
        moves, missing = self._lots.burn(credits)
        self._count_usage(purpose, credits)
        return self._post(
            Door.PRODUCT, reference, Kind.USAGE, -credits,
            moves=moves, owed_change=missing, purpose=purpose, occurred_at=occurred_at, hashed=hashed,
        )  # fmt: skip

    def credit(self, command: Credit) -> tuple[Transfer, CreditOfIntent]:
        """Pays what is owed, the receivable first, and makes a grant of the whole with the rest left in it."""
        paid, receivable_paid = self._pay_debt(command.credits)
        self._grants_made += 1
        number = self._grants_made
        grant = Grant(
            tenant=self.tenant,
            number=number,
            door=Door.STRIPE,
            reference=command.payment_intent,
            payment_intent=command.payment_intent,
            credits=command.credits,
            remaining=command.credits - paid,
            priority=PRIORITY_OF_PAID_CREDITS,
            expires_at=None if command.expires_in_days is None else self.now + timedelta(days=command.expires_in_days),
            created_at=self.now,
        )
        self.new_grants[number] = grant
        self._lots.add(grant)
        credited = CreditOfIntent(
            self.tenant, number, command.kind, command.credits, command.amount_minor, command.currency,
            command.purchase, command.attempt, reversed_credits=0,
        )  # fmt: skip
        transfer = self._post(
            Door.STRIPE, command.payment_intent, command.kind, command.credits,
            moves=([number], [grant.remaining]), owed_change=-paid, receivable_change=-receivable_paid,
            amount_minor=command.amount_minor, currency=command.currency, payment_intent=command.payment_intent,
            purchase=command.purchase, attempt=command.attempt,
        )  # fmt: skip
        return transfer, credited

    def reverse(
        self, credit: CreditOfIntent, payment_intent: str, reference: str, kind: Kind, credits: int, amount_minor: int
    ) -> Transfer:
        """Takes `credits` back from the grant of `credit`; what it has spent becomes a receivable.

        With negative `credits` a reversal is undone: debt is paid first, the rest returns to the grant.
        """
        if credits > 0:
            taken = self._lots.take(credit.grant_number, credits)
            moved, owed_change, receivable_change = -taken, credits - taken, credits - taken
        else:
            paid, receivable_paid = self._pay_debt(-credits)
            moved, owed_change, receivable_change = -credits - paid, -paid, -receivable_paid
            if moved:
                self._lots.put_back(credit.grant_number, moved)
        return self._post(
            Door.STRIPE, reference, kind, -credits,
            moves=([credit.grant_number], [moved]), owed_change=owed_change, receivable_change=receivable_change,
            amount_minor=amount_minor, currency=credit.currency, payment_intent=payment_intent,
            purchase=credit.purchase, attempt=credit.attempt,
        )  # fmt: skip

    def closing_balance(self) -> Balance:
        """The balance after all that was posted."""
        usage = DayUsage(self._usage_day, self._usage_by_purpose, self._usage_of_others)
        return Balance(
            self.tenant, self.version, self.balance, self.held, self.owed, self.receivable, self._grants_made, usage,
            self.now if self.transfers else self._before.changed_at,
        )  # fmt: skip

    def closing_grants(self) -> tuple[list[Grant], list[GrantChange]]:
        """Grants made, as they are now, and what has become of older ones."""
        made = [grant._replace(remaining=self._lots.remaining(number)) for number, grant in self.new_grants.items()]
        return made, list(self._lots.changes(self.tenant, frozenset(self.new_grants)))

    def _pay_debt(self, credits: int) -> tuple[int, int]:
        paid = min(credits, self.owed)
        receivable_paid = min(paid, self.receivable)
        return paid, receivable_paid

    def _count_usage(self, purpose: str, credits: int) -> None:
        today = self.now.date()
        if self._usage_day != today:
            self._usage_day, self._usage_by_purpose, self._usage_of_others = today, {}, 0
        if purpose in self._usage_by_purpose:
            self._usage_by_purpose[purpose] += credits
        elif len(self._usage_by_purpose) < PURPOSES_MAX:
            self._usage_by_purpose[purpose] = credits
        else:
            self._usage_of_others += credits

    def _post(
        self,
        door: Door,
        reference: str,
        kind: Kind,
        change: int,
        *,
        moves: Moves,
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
        assert change == sum(moves[1]) - owed_change, "grants and debt must account for every credit"
        self.version += 1
        self.balance += change
        self.owed += owed_change
        self.receivable += receivable_change
        counter = COUNTER_ACCOUNT[kind]
        source, destination = (counter, Account.AVAILABLE) if change > 0 else (Account.AVAILABLE, counter)
        transfer = Transfer(
            self.tenant, door, reference, hashed or input_hash(kind, change, amount_minor, currency), kind,
            source, destination, abs(change), self.version, self.balance, self.available, owed_change,
            receivable_change, moves[0], moves[1], self.now, purpose, occurred_at, amount_minor, currency,
            payment_intent, purchase, attempt,
        )  # fmt: skip
        self.transfers.append(transfer)
        return transfer
