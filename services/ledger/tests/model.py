"""What a ledger is, in forty lines: remember every fact once, and work everything out from them each time."""

from dataclasses import dataclass, field

from ledger.core.commands import Command, Credit, Debit, DisputeSeen, Expire, RefundSeen, Unapplied, Usage


@dataclass
class Model:
    """Knows nothing of grants, batches, versions or differences."""

    credited: dict[str, Credit] = field(default_factory=dict[str, Credit])
    refunds: dict[tuple[str, str], tuple[int, bool]] = field(default_factory=dict[tuple[str, str], tuple[int, bool]])
    disputes: dict[tuple[str, str, str], int] = field(default_factory=dict[tuple[str, str, str], int])
    used: dict[tuple[str, str], int] = field(default_factory=dict[tuple[str, str], int])

    def apply(self, command: Command) -> None:
        match command:
            case Credit():
                self.credited.setdefault(command.payment_intent, command)
            case RefundSeen(intent, name, amount_minor, _currency, status):
                _, was_void = self.refunds.get((intent, name), (0, False))
                self.refunds[intent, name] = amount_minor, was_void or status in {"failed", "canceled"}
            case DisputeSeen(intent, name, amount_minor, _currency, moved):
                self.disputes.setdefault((intent, name, moved), amount_minor)
            case Usage(tenant, reference, credits):
                if self.is_known(tenant):
                    self.used.setdefault((tenant, reference), credits)
            case Debit(tenant, reference, credits):
                if self.is_known(tenant) and credits <= self.balance(tenant):
                    self.used.setdefault((tenant, reference), credits)
            case Unapplied() | Expire():
                pass

    def is_known(self, tenant: str) -> bool:
        return any(credit.tenant == tenant for credit in self.credited.values())

    def balance(self, tenant: str) -> int:
        bought = [credit for credit in self.credited.values() if credit.tenant == tenant]
        used = sum(credits for (of, _), credits in self.used.items() if of == tenant)
        return sum(credit.credits - self._reversed(credit) for credit in bought) - used

    def _reversed(self, credit: Credit) -> int:
        intent = credit.payment_intent
        minor = sum(amount for (of, _), (amount, is_void) in self.refunds.items() if of == intent and not is_void)
        for name in {name for of, name, _ in self.disputes if of == intent}:
            taken = self.disputes.get((intent, name, "withdrawn"), 0)
            minor += max(0, taken - self.disputes.get((intent, name, "reinstated"), 0))
        return credit.credits * min(credit.amount_minor, minor) // credit.amount_minor
