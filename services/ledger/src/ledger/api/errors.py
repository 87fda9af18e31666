"""Refusals as problems: each has a stable code and says what to do."""

from ledger.core.commands import (
    BalanceOutOfRange,
    Conflict,
    HoldEnded,
    HoldStatus,
    Insufficient,
    NothingPosted,
    Outcome,
    UnknownHold,
    UnknownTenant,
    Withheld,
)
from shared.problems import Problem

_HOW_HOLDS_END = {
    HoldStatus.CAPTURED: "It was captured with other credits.",
    HoldStatus.RELEASED: "It was released. Debit instead.",
    HoldStatus.EXPIRED: "It ended by itself. Debit instead.",
}


def refusal(outcome: Outcome) -> Problem:
    """The problem of an outcome that is a refusal."""
    match outcome:
        case Insufficient(available):
            detail = f"{available} credits are available. Buy more, or use less."
            return Problem(402, "insufficient_credits", detail, available=available)
        case Conflict():
            return Problem(409, "reference_conflict", "This reference carries another input. Use a new reference.")
        case UnknownTenant():
            return unknown_tenant()
        case UnknownHold():
            return unknown_hold()
        case HoldEnded(status, captured):
            detail = f"The hold has ended. {_HOW_HOLDS_END[status]}"
            return Problem(409, "hold_ended", detail, holdStatus=status.value, capturedCredits=captured)
        case BalanceOutOfRange():
            return Problem(422, "balance_out_of_range", "The balance would leave the range of 2^53 - 1 credits.")
        case Withheld():
            return Problem(409, "withheld", "Nothing is wrong with it; others of the batch could not be posted.")
        case NothingPosted():  # it was credited before, and its transfer is in the archive
            return unknown_receipt()
        case _:
            raise AssertionError(f"a request never ends as {outcome}")


def unknown_tenant() -> Problem:
    return Problem(404, "unknown_tenant", "The tenant has never had credits. Buy some, or have it announced.")


def unknown_hold() -> Problem:
    return Problem(404, "unknown_hold", "The tenant has no hold of this reference.")


def unknown_receipt() -> Problem:
    return Problem(404, "unknown_receipt", "There is no receipt of this PaymentIntent that could be credited.")


def invalid_cursor() -> Problem:
    return Problem(422, "invalid_cursor", "Use the `nextCursor` of the page before, as it was.")
