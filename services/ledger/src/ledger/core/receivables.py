"""Which grants a receivable belongs to, recomputed from transfers: `ledger check` compares the grants with this."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class Receivables:
    """Of each grant of one tenant: `unpaid` and `paid_by_others`, as in `state.Grant`."""

    unpaid: Counter[int] = field(default_factory=Counter[int])
    paid_by_others: Counter[int] = field(default_factory=Counter[int])

    def change(self, change: int, grant_numbers: Sequence[int], grant_credits: Sequence[int]) -> None:
        """Applies a transfer that changed the receivable by `change`, with the moves of its grants.

        A transfer that adds to the receivable is a reversal of one grant. In one that pays it, the payers have moves
        below zero: each first pays what is unpaid of itself, then what is unpaid of the oldest grants.
        """
        if change > 0:
            self.unpaid[grant_numbers[0]] += change
            return
        left = -change
        for payer, credits in zip(grant_numbers, grant_credits, strict=True):
            if credits < 0:
                paid = min(-credits, left)
                left -= paid
                self._pay(payer, paid)

    def _pay(self, payer: int, credits: int) -> None:
        for number in (payer, *sorted(self.unpaid)):
            paid = min(self.unpaid[number], credits)
            self.unpaid[number] -= paid
            if number != payer:
                self.paid_by_others[number] += paid
            credits -= paid
