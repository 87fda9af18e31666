"""What Stripe may answer, as far as an attempt cares. The gateway translates; nothing else knows the SDK.

Answer
├── PaymentIntentSeen     a PaymentIntent, as it is
├── Declined       402 card_error, usually with the PaymentIntent inside
├── CardUnusable   400, and the card is detached or its customer is gone: not executed
├── Refused        400: not executed, and what it is about is not known yet
├── OrderRefused   400 although card and customer are there: of this amount, currency or package
├── UnexpectedState      the PaymentIntent is in another state than we thought: read it
├── NotFound       404: no such PaymentIntent
├── OperatorError  401, 403: not executed, and no other request would be
├── RateLimited    429: not executed
├── InProgress     409: the same key is being executed right now
├── ServerError    5xx: executed or not, nobody knows
└── NoAnswer       time-out, connection lost: executed or not, nobody knows

`label` is the answer's name in metrics and logs: it stays as it is whatever the class is called.
"""

from dataclasses import dataclass
from typing import ClassVar

from recharge.core.cards import DeclineCodes
from shared.stripe_events import PaymentIntentView


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
