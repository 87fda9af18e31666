"""Money going back: refunds that succeed, wait or fail; disputes won, lost, or only asked about."""

from typing import Any

import pytest
import stripe

from stripe_simulator.testing import RunningSimulator


def paid(client: stripe.StripeClient, token: str = "pm_card_visa") -> stripe.PaymentIntent:
    return client.v1.payment_intents.create(
        {
            "amount": 1000,
            "currency": "usd",
            "payment_method": token,
            "confirm": True,
            "allowed_payment_method_types": ["card"],
        }
    )


def events_since(client: stripe.StripeClient, prefix: str) -> list[str]:
    types = [event.type for event in client.v1.events.list({"limit": 100}).data][::-1]
    return [name for name in types if name.startswith(prefix)]


def entry(simulator: RunningSimulator) -> Any:
    (charge,) = simulator.get("/books")["charges"]
    return charge


def test_partial_refunds_up_to_the_whole(simulator: RunningSimulator, client: stripe.StripeClient) -> None:
    intent = paid(client)
    first = client.v1.refunds.create({"payment_intent": intent.id, "amount": 300, "reason": "requested_by_customer"})
    assert (first.status, first.amount, first.payment_intent) == ("succeeded", 300, intent.id)
    with pytest.raises(stripe.InvalidRequestError, match="greater than unrefunded amount"):
        client.v1.refunds.create({"payment_intent": intent.id, "amount": 701})
    assert client.v1.refunds.create({"charge": str(intent.latest_charge)}).amount == 700
    with pytest.raises(stripe.InvalidRequestError) as caught:
        client.v1.refunds.create({"payment_intent": intent.id})
    assert caught.value.code == "charge_already_refunded"
    charge = client.v1.charges.retrieve(str(intent.latest_charge), {"expand": ["refunds"]})
    assert (charge.refunded, charge.amount_refunded) == (True, 1000)
    assert charge.refunds is not None
    assert len(charge.refunds.data) == 2
    assert entry(simulator)["refunded"] == 1000
    assert events_since(client, "refund.") == ["refund.created", "refund.created"]


def test_refund_that_fails_later_by_itself(simulator: RunningSimulator, client: stripe.StripeClient) -> None:
    intent = paid(client, "pm_card_refundFail")
    refund = client.v1.refunds.create({"payment_intent": intent.id})
    assert refund.status == "succeeded"
    for _ in range(500):
        if client.v1.refunds.retrieve(refund.id).status == "failed":
            break
    assert client.v1.refunds.retrieve(refund.id).failure_reason == "unknown"
    assert events_since(client, "refund.") == ["refund.created", "refund.updated", "refund.failed"]
    assert entry(simulator)["refunded"] == 0


@pytest.mark.parametrize(("outcome", "refunded"), [("succeeded", 1000), ("failed", 0)])
def test_pending_refund_is_settled_later(
    simulator: RunningSimulator, client: stripe.StripeClient, outcome: str, refunded: int
) -> None:
    intent = paid(client, "pm_card_pendingRefund")
    refund = client.v1.refunds.create({"payment_intent": intent.id})
    assert refund.status == "pending"
    simulator.post(f"/refunds/{refund.id}/settle", outcome=outcome)
    assert client.v1.refunds.retrieve(refund.id).status == outcome
    assert entry(simulator)["refunded"] == refunded
    again = simulator.control.post(f"/_sim/refunds/{refund.id}/settle", json={"outcome": outcome})
    assert again.status_code == 409


def test_intent_without_a_paid_charge_cannot_be_refunded(client: stripe.StripeClient) -> None:
    intent = client.v1.payment_intents.create({"amount": 1000, "currency": "usd"})
    with pytest.raises(stripe.InvalidRequestError, match="does not have a successful charge"):
        client.v1.refunds.create({"payment_intent": intent.id})


def test_disputed_card_withdraws_at_once_and_a_won_dispute_gives_back(
    simulator: RunningSimulator, client: stripe.StripeClient
) -> None:
    intent = paid(client, "pm_card_createDispute")
    (dispute,) = client.v1.disputes.list({"payment_intent": intent.id}).data
    assert (dispute.status, dispute.reason, dispute.amount) == ("needs_response", "fraudulent", 1000)
    assert entry(simulator)["disputed"] == 1000
    with pytest.raises(stripe.InvalidRequestError) as caught:
        client.v1.refunds.create({"payment_intent": intent.id})
    assert caught.value.code == "charge_disputed"
    simulator.post(f"/disputes/{dispute.id}/resolve", outcome="won")
    won = client.v1.disputes.retrieve(dispute.id)
    assert won.status == "won"
    assert [transaction.amount for transaction in won.balance_transactions] == [-1000, 1000]
    assert entry(simulator)["disputed"] == 0
    assert events_since(client, "charge.dispute.") == [
        "charge.dispute.created",
        "charge.dispute.funds_withdrawn",
        "charge.dispute.closed",
        "charge.dispute.funds_reinstated",
    ]


def test_lost_dispute_keeps_the_money_away(simulator: RunningSimulator, client: stripe.StripeClient) -> None:
    intent = paid(client)
    dispute = simulator.post(f"/charges/{intent.id}/dispute", amount_minor=400)
    assert client.v1.disputes.close(dispute["id"]).status == "lost"
    assert entry(simulator)["disputed"] == 400
    assert events_since(client, "charge.dispute.")[-1] == "charge.dispute.closed"
    assert simulator.control.post(f"/_sim/disputes/{dispute['id']}/resolve", json={"outcome": "won"}).status_code == 409


def test_inquiry_withdraws_nothing_until_it_is_escalated(
    simulator: RunningSimulator, client: stripe.StripeClient
) -> None:
    intent = paid(client, "pm_card_createDisputeInquiry")
    (dispute,) = client.v1.disputes.list({"payment_intent": intent.id}).data
    assert dispute.status == "warning_needs_response"
    assert entry(simulator)["disputed"] == 0
    simulator.post(f"/disputes/{dispute.id}/escalate")
    assert client.v1.disputes.retrieve(dispute.id).status == "needs_response"
    assert entry(simulator)["disputed"] == 1000


def test_inquiry_can_just_end(simulator: RunningSimulator, client: stripe.StripeClient) -> None:
    intent = paid(client)
    dispute = simulator.post(f"/charges/{intent.id}/dispute", inquiry=True)
    simulator.post(f"/disputes/{dispute['id']}/resolve", outcome="warning_closed")
    assert client.v1.disputes.retrieve(dispute["id"]).status == "warning_closed"
    assert events_since(client, "charge.dispute.") == ["charge.dispute.created", "charge.dispute.closed"]


def test_winning_evidence_wins(client: stripe.StripeClient) -> None:
    intent = paid(client, "pm_card_createDispute")
    (dispute,) = client.v1.disputes.list({"payment_intent": intent.id}).data
    client.v1.disputes.update(dispute.id, {"evidence": {"uncategorized_text": "winning_evidence"}})
    assert client.v1.disputes.retrieve(dispute.id).status == "won"


def test_early_fraud_warning_moves_no_money(simulator: RunningSimulator, client: stripe.StripeClient) -> None:
    intent = paid(client, "pm_card_createIssuerFraudRecord")
    (event,) = client.v1.events.list({"type": "radar.early_fraud_warning.created"}).data
    assert event.data.object["payment_intent"] == intent.id
    assert entry(simulator)["disputed"] == 0
