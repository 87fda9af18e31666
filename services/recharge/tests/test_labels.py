"""Values of metric labels and log fields: dashboards and alerts are built on them."""

from typing import get_args

from recharge.core.answers import Answer
from recharge.workflows.calls import StripeCall


def test_the_labels_of_stripes_answers_stay_as_they_are() -> None:
    assert {answer.label for answer in get_args(Answer)} == {
        "IntentSeen", "Declined", "CardUnusable", "Refused", "OrderRefused", "LookAgain", "NotFound", "OperatorError",
        "RateLimited", "InProgress", "ServerError", "NoAnswer",
    }  # fmt: skip


def test_the_labels_of_calls_to_stripe_stay_as_they_are() -> None:

    assert {call.label for call in get_args(StripeCall)} == {"charge", "retrieve", "find", "cancel"}
