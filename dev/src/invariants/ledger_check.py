"""The ledger's own commands, run as an operator runs them: `check` and `reconcile`."""

import time

from embedded.process import NotReady
from embedded.stack import Stack

PAUSE_S = 0.5
#: No grace: once every event has arrived, the ledger holds whatever Stripe holds.
RECONCILE = ("reconcile", "--since", "1d", "--grace", "0s")


def check_ledger(stack: Stack, timeout_s: float = 60.0) -> None:
    """Returns once `reconcile` and `check` find no difference; raises `NotReady` with their output if they still find
    one after `timeout_s`. Blocks. Looks back one day, so the stack must be younger."""
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
