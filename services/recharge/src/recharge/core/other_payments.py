"""What it means for an attempt that another PaymentIntent than its own was paid in its name.

A signed order can be copied, and an operator may credit a stray receipt that names an attempt. Such money counts in the
cap. But an attempt ends only by what becomes of its own PaymentIntent, which is cancelled first while it is unpaid.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from recharge.core.attempts import Attempt, State, Try
from recharge.core.transitions import Alert, OtherPayment, Transition, give_up

PAID_OTHERWISE = "paid_otherwise"


def after_other_payment(attempt: Attempt, tries: Sequence[Try], payment: OtherPayment, now: datetime) -> Transition:
    """Another PaymentIntent was paid for this attempt. Its own is cancelled, unless that has been paid too."""
    if attempt.has_ended or attempt.state is State.CHARGED or attempt.canceling:
        transition = Transition(attempt)
    else:
        transition = give_up(attempt, tries, PAID_OTHERWISE, now)
    return replace(transition, other_payment=payment, alert=Alert.SECOND_PAYMENT_INTENT)
