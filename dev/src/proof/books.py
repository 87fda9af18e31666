"""The ledger's own proofs, as an operator runs them: `check` for the books, `reconcile` against Stripe."""

import time

from embedded.process import NotReady
from embedded.stack import Stack

PAUSE_S = 0.5
#: No grace: whatever Stripe has is to be in the books, once everything has arrived.
RECONCILE = ("reconcile", "--since", "1d", "--grace", "0s")


def prove_books(stack: Stack, timeout_s: float = 60.0) -> None:
    """Returns once nothing differs from Stripe and every book is right; raises `NotReady` with what is wrong when that
    is not so within `timeout_s`. Blocks; the stack is younger than a day."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            stack.run("ledger", *RECONCILE)
            break
        except NotReady:
            if time.monotonic() > deadline:
                raise
        time.sleep(PAUSE_S)
    stack.run("ledger", "check")
