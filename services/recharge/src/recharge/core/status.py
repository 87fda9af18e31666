"""The status that a tenant reads: whether its card would be charged, and if not, what would change that."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from recharge.core.situation import Reason


class LiftedBy(StrEnum):
    """What lets a card be charged again."""

    ENABLE = "enable"
    AUTHENTICATE = "authenticate"
    CONSENT = "consent"
    CHOOSE_CARD = "choose_card"
    OTHER_CARD = "other_card"
    ENTER_CARD_AGAIN = "enter_card_again"
    PAY_WITH_CARD = "pay_with_card"
    PURCHASE = "purchase"
    SETTINGS = "settings"
    NEXT_MONTH = "next_month"
    OPERATOR = "operator"


#: Each of these is enough by itself (see `decide` and `cards.still_stopped`). A card entered again needs consent too.
_LIFTED_BY: Mapping[Reason, tuple[LiftedBy, ...]] = {
    Reason.DISABLED: (LiftedBy.ENABLE,),
    Reason.NO_CONSENT: (LiftedBy.CONSENT,),
    Reason.FROZEN: (LiftedBy.OPERATOR,),
    Reason.SUSPENDED: (LiftedBy.CONSENT, LiftedBy.OTHER_CARD, LiftedBy.PAY_WITH_CARD),
    Reason.CARD_STOPPED: (LiftedBy.OTHER_CARD, LiftedBy.ENTER_CARD_AGAIN, LiftedBy.PAY_WITH_CARD),
    Reason.NO_CARD: (LiftedBy.CHOOSE_CARD,),
    Reason.DISPUTE_OPEN: (LiftedBy.CONSENT, LiftedBy.PURCHASE),
    Reason.RECEIVABLE_OPEN: (LiftedBy.CONSENT, LiftedBy.PURCHASE),
    Reason.BALANCE_UNKNOWN: (LiftedBy.PURCHASE,),
    Reason.CURRENCY: (LiftedBy.SETTINGS,),
    Reason.NO_PACKAGE_FITS: (LiftedBy.SETTINGS,),
    Reason.CAP_REACHED: (LiftedBy.SETTINGS, LiftedBy.NEXT_MONTH),
}


@dataclass(frozen=True, slots=True)
class RechargeStatus:
    """`waiting`: on, and nothing has to be done. `paused`: nothing is charged until one of `lifted_by` happens."""

    state: Literal["off", "waiting", "charging", "paused"]
    reason: str | None
    detail: str | None
    lifted_by: tuple[LiftedBy, ...]


def status_of(
    outcome: str | None, reason: str | None, detail: str | None, action_required: str | None = None
) -> RechargeStatus:
    """The status after the last decision; all are None before the first one. An unknown reason, of a newer version, is
    returned as it is. `action_required` is what the open attempt waits for.
    """
    if outcome is None:
        return RechargeStatus("off", None, None, (LiftedBy.ENABLE,))
    if outcome == "charge" or reason == Reason.ATTEMPT_OPEN:
        is_waiting = action_required == LiftedBy.AUTHENTICATE
        return RechargeStatus("charging", reason, detail, (LiftedBy.AUTHENTICATE,) if is_waiting else ())
    lifted_by = _LIFTED_BY[Reason(reason)] if reason in _LIFTED_BY else ()
    if reason == Reason.DISABLED:
        return RechargeStatus("off", reason, detail, lifted_by)
    return RechargeStatus("paused" if lifted_by else "waiting", reason, detail, lifted_by)
