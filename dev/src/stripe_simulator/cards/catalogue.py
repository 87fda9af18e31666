"""Stripe's test cards by number and by token (https://docs.stripe.com/testing)."""

from dataclasses import dataclass, field

from stripe_simulator.cards.behaviour import Authentication, Behaviour, Decline

_DECLINED = "Your card was declined."


def decline(decline_code: str) -> Decline:
    """The decline that Stripe answers for a decline code, with the advice that goes with it."""
    known = _DECLINES.get(decline_code)
    return known or Decline("card_declined", _DECLINED, decline_code, "try_again_later")


_DECLINES = {
    "insufficient_funds": Decline(
        "card_declined", "Your card has insufficient funds.", "insufficient_funds", "try_again_later"
    ),
    "lost_card": Decline("card_declined", _DECLINED, "lost_card", "do_not_try_again"),
    "stolen_card": Decline("card_declined", _DECLINED, "stolen_card", "do_not_try_again"),
    "pickup_card": Decline("card_declined", _DECLINED, "pickup_card", "do_not_try_again"),
    "fraudulent": Decline("card_declined", _DECLINED, "fraudulent", "do_not_try_again"),
    "expired_card": Decline("expired_card", "Your card has expired.", "expired_card", "confirm_card_data"),
    "incorrect_cvc": Decline(
        "incorrect_cvc", "Your card's security code is incorrect.", "incorrect_cvc", "confirm_card_data"
    ),
    "processing_error": Decline(
        "processing_error",
        "An error occurred while processing your card. Try again in a little bit.",
        "processing_error",
        "try_again_later",
    ),
    "authentication_required": Decline(
        "authentication_required",
        "Your card was declined. This transaction requires authentication.",
        "authentication_required",
    ),
    "card_velocity_exceeded": Decline(
        "card_declined",
        "Your card was declined for making repeated attempts too frequently or exceeding its amount limit.",
        "card_velocity_exceeded",
        "try_again_later",
    ),
}


@dataclass(frozen=True)
class TestCard:
    """A card number of Stripe's test mode; `names` are its `pm_card_<name>` and `tok_<name>` tokens."""

    number: str
    names: tuple[str, ...]
    behaviour: Behaviour = field(default_factory=Behaviour)
    brand: str = "visa"
    funding: str = "credit"
    country: str = "US"

    __test__ = False  # not a test, whatever pytest makes of the name


def _declining(number: str, name: str, decline_code: str) -> TestCard:
    return TestCard(number, (name,), Behaviour(decline=decline(decline_code)))


def _authenticating(
    number: str, names: tuple[str, ...], when: Authentication, after: Decline | None = None
) -> TestCard:
    return TestCard(number, names, Behaviour(decline=after, declines_setup=False, authentication=when))


_GENERIC = decline("generic_decline")

TEST_CARDS = (
    TestCard("4242424242424242", ("visa",)),
    TestCard("4000056655665556", ("visa_debit",), funding="debit"),
    TestCard("5555555555554444", ("mastercard",), brand="mastercard"),
    TestCard("5200828282828210", ("mastercard_debit",), brand="mastercard", funding="debit"),
    TestCard("5105105105105100", ("mastercard_prepaid",), brand="mastercard", funding="prepaid"),
    TestCard("378282246310005", ("amex",), brand="amex"),
    TestCard("6011111111111117", ("discover",), brand="discover"),
    TestCard("3056930009020004", ("diners",), brand="diners"),
    TestCard("3566002020360505", ("jcb",), brand="jcb", country="JP"),
    TestCard("6200000000000005", ("unionpay",), brand="unionpay", country="CN"),
    TestCard("4000000000000077", ("bypassPending",)),
    _declining("4000000000000002", "visa_chargeDeclined", "generic_decline"),
    _declining("4000000000009995", "visa_chargeDeclinedInsufficientFunds", "insufficient_funds"),
    _declining("4000000000009987", "visa_chargeDeclinedLostCard", "lost_card"),
    _declining("4000000000009979", "visa_chargeDeclinedStolenCard", "stolen_card"),
    _declining("4000000000006975", "visa_chargeDeclinedVelocityLimitExceeded", "card_velocity_exceeded"),
    _declining("4000000000000069", "chargeDeclinedExpiredCard", "expired_card"),
    _declining("4000000000000127", "chargeDeclinedIncorrectCvc", "incorrect_cvc"),
    _declining("4000000000000119", "chargeDeclinedProcessingError", "processing_error"),
    _declining("4100000000000019", "radarBlock", "fraudulent"),
    TestCard("4000000000000341", ("chargeCustomerFail",), Behaviour(decline=_GENERIC, declines_setup=False)),
    _authenticating("4000000000003220", ("threeDSecure2Required", "threeDSecureRequired"), Authentication.UNTIL_SET_UP),
    _authenticating("4000008400001629", ("threeDSecureRequiredChargeDeclined",), Authentication.UNTIL_SET_UP, _GENERIC),
    TestCard("4000000000003055", ("threeDSecureOptional",)),
    _authenticating("4000002500003155", ("authenticationRequiredOnSetup",), Authentication.UNTIL_SET_UP),
    _authenticating("4000002760003184", ("authenticationRequired",), Authentication.ALWAYS),
    _authenticating("4000003800000446", ("authenticationRequiredSetupForOffSession",), Authentication.ON_SESSION),
    _authenticating(
        "4000008260003178",
        ("authenticationRequiredChargeDeclinedInsufficientFunds",),
        Authentication.ON_SESSION,
        decline("insufficient_funds"),
    ),
    TestCard("4000000000000259", ("createDispute",), Behaviour(dispute_reason="fraudulent")),
    TestCard(
        "4000000000002685", ("createDisputeProductNotReceived",), Behaviour(dispute_reason="product_not_received")
    ),
    TestCard(
        "4000000000001976",
        ("createDisputeInquiry",),
        Behaviour(dispute_reason="product_not_received", dispute_is_inquiry=True),
    ),
    TestCard("4000000000005423", ("createIssuerFraudRecord",), Behaviour(early_fraud_warning=True)),
    TestCard("4000000000007726", ("pendingRefund",), Behaviour(refund="pending")),
    TestCard("4000000000005126", ("refundFail",), Behaviour(refund="fails_later")),
)

CARDS_BY_NUMBER = {card.number: card for card in TEST_CARDS}
CARDS_BY_PAYMENT_METHOD_TOKEN = {f"pm_card_{name}": card for card in TEST_CARDS for name in card.names}
CARDS_BY_CARD_TOKEN = {f"tok_{name}": card for card in TEST_CARDS for name in card.names}
