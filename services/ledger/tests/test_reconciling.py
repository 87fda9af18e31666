"""`compare`: each way in which Stripe and the books can differ is a difference of its kind, and nothing else is."""

from dataclasses import replace

import pytest

from ledger.core.accounts import Kind as TransferKind
from ledger.core.commands import Credit, DisputeSeen, RefundSeen, UnappliedReceipt
from ledger.core.reconciling import AtStripe, Difference, InBooks, Kind, compare
from ledger.core.state import CreditOfIntent, DisputeState, PaymentIntent, RefundState, RefusedReversal

from .builders import purchase, refund, reinstated, unapplied, withdrawn

CREDIT = CreditOfIntent("acme", 1, TransferKind.PURCHASE, 100, 1000, "usd", "pur_1", None, 0)
CREDITED = InBooks(PaymentIntent("pi_1", CREDIT))
PAID = AtStripe("pi_1", purchase())


def paid(
    *refunds: RefundSeen,
    disputes: tuple[DisputeSeen, ...] = (),
    payment: Credit | UnappliedReceipt | None = None,
    on_their_way: frozenset[str] = frozenset(),
) -> AtStripe:
    return AtStripe(
        "pi_1",
        payment or purchase(),
        {each.refund: each for each in refunds},
        {"dp_1": disputes} if disputes else {},
        on_their_way,
        has_all_reversals=True,
    )


def books(refunds: dict[str, RefundState] | None = None, disputes: dict[str, DisputeState] | None = None) -> InBooks:
    return InBooks(PaymentIntent("pi_1", CREDIT, None, refunds or {}, disputes or {}))


def refusing(reference: str, *, is_void: bool = False) -> InBooks:
    refused = RefusedReversal(reference, 1000, "eur", is_void)
    return InBooks(PaymentIntent("pi_1", CREDIT, None, {}, {}, {reference: refused}))


def kinds(found: list[Difference]) -> list[tuple[Kind, str]]:
    return [(each.kind, each.object_id) for each in found]


@pytest.mark.parametrize(
    ("at_stripe", "in_books"),
    [
        pytest.param(PAID, CREDITED, id="credited"),
        pytest.param(AtStripe("pi_1", None), None, id="not_paid_and_unknown"),
        pytest.param(paid(payment=unapplied()), InBooks(PaymentIntent("pi_1", None, ""), (1000, "usd")), id="receipt"),
        pytest.param(paid(), InBooks(PaymentIntent("pi_1", None, "acme"), (1000, "usd")), id="order_used_twice"),
        pytest.param(
            paid(payment=purchase(credits=7)),
            InBooks(PaymentIntent("pi_1", CREDIT, "acme"), (1000, "usd")),
            id="receipt_credited_by_an_operator",
        ),
        pytest.param(paid(refund()), books({"re_1": RefundState(1000, is_void=False)}), id="refunded"),
        pytest.param(paid(refund(status="failed")), books(), id="failed_before_anybody_knew"),
        pytest.param(paid(refund(status="failed")), refusing("re_1", is_void=True), id="failed_in_another_currency"),
        pytest.param(
            paid(refund(status="failed")), books({"re_1": RefundState(1000, is_void=True)}), id="failed_refund"
        ),
        pytest.param(paid(disputes=(withdrawn(),)), books(None, {"dp_1": DisputeState(1000, 0)}), id="disputed"),
        pytest.param(
            paid(disputes=(withdrawn(), reinstated())), books(None, {"dp_1": DisputeState(1000, 1000)}), id="won"
        ),
    ],
)
def test_equal_objects_are_no_difference(at_stripe: AtStripe, in_books: InBooks | None) -> None:
    assert compare(at_stripe, in_books) == []


@pytest.mark.parametrize(
    ("at_stripe", "in_books", "expected"),
    [
        (PAID, None, (Kind.PAYMENT_MISSING, "pi_1")),
        (paid(payment=unapplied()), None, (Kind.PAYMENT_MISSING, "pi_1")),
        (PAID, InBooks(PaymentIntent("pi_1")), (Kind.PAYMENT_MISSING, "pi_1")),
        (AtStripe("pi_1", None), CREDITED, (Kind.PAYMENT_NOT_AT_STRIPE, "pi_1")),
        (
            AtStripe("pi_1", None),
            InBooks(PaymentIntent("pi_1", None, ""), (1, "usd")),
            (Kind.PAYMENT_NOT_AT_STRIPE, "pi_1"),
        ),
        (paid(payment=purchase(amount_minor=999)), CREDITED, (Kind.PAYMENT_DIFFERS, "pi_1")),
        (paid(payment=replace(purchase(), currency="eur")), CREDITED, (Kind.PAYMENT_DIFFERS, "pi_1")),
        (paid(payment=purchase(credits=99)), CREDITED, (Kind.PAYMENT_DIFFERS, "pi_1")),
        (paid(payment=purchase(tenant="bravo")), CREDITED, (Kind.PAYMENT_DIFFERS, "pi_1")),
        (
            paid(payment=unapplied()),
            InBooks(PaymentIntent("pi_1", None, ""), (1, "usd")),
            (Kind.PAYMENT_DIFFERS, "pi_1"),
        ),
        (paid(refund()), books(), (Kind.REFUND_MISSING, "re_1")),
        (paid(refund(status="pending")), books(), (Kind.REFUND_MISSING, "re_1")),
        (
            paid(refund(status="failed")),
            books({"re_1": RefundState(1000, is_void=False)}),
            (Kind.REFUND_STATUS_DIFFERS, "re_1"),
        ),
        (paid(refund()), books({"re_1": RefundState(1000, is_void=True)}), (Kind.REFUND_STATUS_DIFFERS, "re_1")),
        (paid(refund()), books({"re_1": RefundState(1, is_void=False)}), (Kind.REFUND_DIFFERS, "re_1")),
        (paid(), books({"re_1": RefundState(1000, is_void=False)}), (Kind.REFUND_NOT_AT_STRIPE, "re_1")),
        (paid(disputes=(withdrawn(),)), books(), (Kind.DISPUTE_MISSING, "dp_1")),
        (
            paid(disputes=(withdrawn(), reinstated())),
            books(None, {"dp_1": DisputeState(1000, 0)}),
            (Kind.DISPUTE_MISSING, "dp_1"),
        ),
        (paid(disputes=(withdrawn(),)), books(None, {"dp_1": DisputeState(1, 0)}), (Kind.DISPUTE_DIFFERS, "dp_1")),
        (
            paid(disputes=(withdrawn(),)),
            books(None, {"dp_1": DisputeState(1000, 1000)}),
            (Kind.DISPUTE_DIFFERS, "dp_1"),
        ),
        (paid(), books(None, {"dp_1": DisputeState(1000, 0)}), (Kind.DISPUTE_NOT_AT_STRIPE, "dp_1")),
        (paid(replace(refund(), currency="eur")), refusing("re_1"), (Kind.REVERSAL_REFUSED, "re_1")),
        (
            paid(disputes=(replace(withdrawn(), currency="eur"), replace(reinstated(), currency="eur"))),
            refusing("dp_1:withdrawn"),
            (Kind.DISPUTE_MISSING, "dp_1"),
        ),
        (
            paid(replace(refund(status="failed"), currency="eur")),
            refusing("re_1"),
            (Kind.REFUND_STATUS_DIFFERS, "re_1"),
        ),
        (
            paid(disputes=(replace(withdrawn(), currency="eur"),)),
            refusing("dp_1:withdrawn"),
            (Kind.REVERSAL_REFUSED, "dp_1"),
        ),
    ],
)
def test_each_difference_has_its_kind(at_stripe: AtStripe, in_books: InBooks | None, expected: object) -> None:
    assert kinds(compare(at_stripe, in_books)) == [expected]


def test_every_kind_of_difference_has_a_case() -> None:
    marks = test_each_difference_has_its_kind.pytestmark  # pyright: ignore[reportFunctionMemberAccess]
    assert {case[2][0] for case in marks[0].args[1]} == set(Kind)


def test_an_object_whose_event_may_still_come_is_no_difference() -> None:
    young = frozenset(["pi_1", "re_1", "dp_1"])
    assert compare(paid(refund(), disputes=(withdrawn(),), on_their_way=young), None) == []


def test_reversals_only_in_the_books_differ_only_if_stripes_list_is_complete() -> None:
    in_books = books({"re_1": RefundState(1000, is_void=False)}, {"dp_1": DisputeState(1000, 0)})
    assert compare(replace(paid(), has_all_reversals=False), in_books) == []


def test_a_missing_payment_with_refund_and_dispute_is_three_differences() -> None:
    assert kinds(compare(paid(refund(), disputes=(withdrawn(),)), None)) == [
        (Kind.PAYMENT_MISSING, "pi_1"),
        (Kind.REFUND_MISSING, "re_1"),
        (Kind.DISPUTE_MISSING, "dp_1"),
    ]
