"""What happens when a card is charged or set up: pure decisions."""

from dataclasses import dataclass
from enum import Enum
from typing import Literal


class Authentication(Enum):
    """When a card's bank asks its holder to authenticate (3D Secure)."""

    NEVER = "never"
    ALWAYS = "always"
    ON_SESSION = "on_session"
    """On-session only: the card counts as already set up."""
    UNTIL_SET_UP = "until_set_up"
    """On-session, and off-session until it has been set up for that."""


@dataclass(frozen=True)
class Decline:
    """Why a charge is refused, in Stripe's words; `advice_code` says whether trying again can help."""

    code: str
    message: str
    decline_code: str | None = None
    advice_code: str | None = None


@dataclass(frozen=True)
class Behaviour:
    """How a card behaves whenever it is used."""

    decline: Decline | None = None
    declines_setup: bool = True
    """Whether `decline` already shows when the card is attached or set up."""
    authentication: Authentication = Authentication.NEVER
    processing: bool = False
    """Charges stay `processing` until the control API settles them."""
    refund: Literal["succeeds", "pending", "fails_later"] = "succeeds"
    dispute_reason: str | None = None
    dispute_is_inquiry: bool = False
    early_fraud_warning: bool = False


@dataclass
class CardState:
    """What Stripe knows about one payment method and does not show."""

    behaviour: Behaviour
    number: str
    set_up_for_off_session: bool = False
    used_up: bool = False
    """Used without a customer, or detached, and so not usable again."""
    override: Behaviour | None = None
    override_uses_left: int | None = None


class Outcome(Enum):
    """The result of a charge or setup that is not declined."""

    APPROVED = "approved"
    NEEDS_AUTHENTICATION = "needs_authentication"
    PROCESSING = "processing"


AUTHENTICATION_REQUIRED = Decline(
    "authentication_required",
    "Your card was declined. This transaction requires authentication.",
    decline_code="authentication_required",
)
AUTHENTICATION_FAILED_CODE = "payment_intent_authentication_failure"
SETUP_AUTHENTICATION_FAILED_CODE = "setup_intent_authentication_failure"


def decide_charge(behaviour: Behaviour, *, off_session: bool, set_up: bool, authenticated: bool) -> Outcome | Decline:
    """The result of charging the card. Off-session nobody can authenticate, so required authentication is a decline."""
    if not authenticated and _asks_for_authentication(behaviour.authentication, off_session=off_session, set_up=set_up):
        return AUTHENTICATION_REQUIRED if off_session else Outcome.NEEDS_AUTHENTICATION
    if behaviour.decline is not None:
        return behaviour.decline
    return Outcome.PROCESSING if behaviour.processing else Outcome.APPROVED


def decide_setup(behaviour: Behaviour, *, authenticated: bool) -> Outcome | Decline:
    """The result of setting the card up."""
    asks = behaviour.authentication in (Authentication.ALWAYS, Authentication.UNTIL_SET_UP)
    if asks and not authenticated:
        return Outcome.NEEDS_AUTHENTICATION
    if behaviour.decline is not None and behaviour.declines_setup:
        return behaviour.decline
    return Outcome.APPROVED


def _asks_for_authentication(authentication: Authentication, *, off_session: bool, set_up: bool) -> bool:
    match authentication:
        case Authentication.NEVER:
            return False
        case Authentication.ALWAYS:
            return True
        case Authentication.ON_SESSION:
            return not off_session
        case Authentication.UNTIL_SET_UP:
            return not (off_session and set_up)
