"""What Stripe may answer, as far as an attempt needs to know. Only the gateway knows the SDK.

Answer
├── PaymentIntentSeen  a PaymentIntent, as it is
├── Declined           402 card_error, usually with the PaymentIntent
├── CardUnusable       400, and the card is detached or its customer is gone: not executed
├── Refused            400: not executed, and the cause is not known yet
├── OrderRefused       400 although card and customer exist: because of this amount, currency or package
├── UnexpectedState    the PaymentIntent is in another state than we assumed: retrieve it
├── NotFound           404: no such PaymentIntent
├── OperatorError      401, 403: not executed, and no other request would be
├── RateLimited        429: not executed
├── InProgress         409: another request with the same key is being executed
├── ServerError        5xx: may have been executed
└── NoAnswer           time-out, connection lost: may have been executed

`label` is the answer's name in metrics and logs. It does not change with the name of the class.
"""

from dataclasses import dataclass
from typing import ClassVar

from recharge.core.declines import DeclineCodes
from shared.stripe_events import PaymentIntentView

#: The `kind` of `NoAnswer` for a list with a PaymentIntent that names the attempt and is not proven to be its own.
UNPROVEN = "unproven_payment_intent"


@dataclass(frozen=True, slots=True)
class PaymentIntentSeen:
    label: ClassVar[str] = "IntentSeen"
    view: PaymentIntentView


@dataclass(frozen=True, slots=True)
class Declined:
    label: ClassVar[str] = "Declined"
    codes: DeclineCodes
    view: PaymentIntentView | None


@dataclass(frozen=True, slots=True)
class CardUnusable:
    label: ClassVar[str] = "CardUnusable"
    code: str


@dataclass(frozen=True, slots=True)
class Refused:
    label: ClassVar[str] = "Refused"
    code: str


@dataclass(frozen=True, slots=True)
class OrderRefused:
    """`made_nothing`: the refusal itself proves that this call was not executed."""

    label: ClassVar[str] = "OrderRefused"
    code: str
    made_nothing: bool = False


@dataclass(frozen=True, slots=True)
class UnexpectedState:
    label: ClassVar[str] = "LookAgain"
    code: str


@dataclass(frozen=True, slots=True)
class NotFound:
    label: ClassVar[str] = "NotFound"


@dataclass(frozen=True, slots=True)
class OperatorError:
    label: ClassVar[str] = "OperatorError"
    status: int
    code: str


@dataclass(frozen=True, slots=True)
class RateLimited:
    label: ClassVar[str] = "RateLimited"


@dataclass(frozen=True, slots=True)
class InProgress:
    label: ClassVar[str] = "InProgress"


@dataclass(frozen=True, slots=True)
class ServerError:
    label: ClassVar[str] = "ServerError"
    status: int


@dataclass(frozen=True, slots=True)
class NoAnswer:
    label: ClassVar[str] = "NoAnswer"
    kind: str


Answer = (
    PaymentIntentSeen
    | Declined
    | CardUnusable
    | Refused
    | OrderRefused
    | UnexpectedState
    | NotFound
    | OperatorError
    | RateLimited
    | InProgress
    | ServerError
    | NoAnswer
)
