"""Control routes for the whole simulator: health, all charges, the clock, the request log, reset."""

from collections import Counter
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from stripe_simulator.account import Account
from stripe_simulator.contract import Json
from stripe_simulator.control.access import TheSimulator

router = APIRouter()


class Advance(BaseModel):
    seconds: float = Field(ge=0, le=10 * 366 * 86_400, description="How much older everything becomes.")


@router.get("/healthz", summary="Whether the simulator answers.")
async def healthz() -> dict[str, str]:
    return {"status": "ok"}


@router.get("/books", summary="Every charge that succeeded, and where webhooks stand.")
async def books(simulator: TheSimulator) -> dict[str, Any]:
    """Amounts are in minor units. `refunded` and `disputed` are amounts too: what is refunded and not come back, and
    what is withdrawn and not reinstated."""
    account, sender = simulator.account, simulator.sender
    charges = [_entry(account, charge) for charge in account.charges if charge["captured"]]
    totals: Counter[str] = Counter()
    for charge in charges:
        totals[charge["currency"]] += charge["amount_minor"]
    return {
        "charges": charges,
        "totals_minor": dict(totals),
        "counts": {
            "customers": len(account.customers),
            "payment_intents": dict(Counter(intent["status"] for intent in account.payment_intents)),
            "charges_succeeded": len(charges),
            "charges_failed": sum(charge["status"] == "failed" for charge in account.charges),
            "events": len(account.events),
        },
        "webhooks": asdict(sender.counts)
        | {
            "under_way": sender.under_way,
            "held": len(sender.held),
            "events_undelivered": len(account.events.having("_delivered", "no")),
        },
    }


@router.post("/reset", summary="Start over: no objects, no faults, the real time.")
async def reset(simulator: TheSimulator) -> dict[str, str]:
    simulator.reset()
    return {"status": "reset"}


@router.get("/clock", summary="The simulated time, and how far it is ahead.")
async def clock(simulator: TheSimulator) -> dict[str, float]:
    return {"now": simulator.account.clock.now(), "offset_s": simulator.account.clock.offset_s}


@router.post("/clock/advance", summary="Move the time forward; a webhook's `t=` stays the real time.")
async def advance(wanted: Advance, simulator: TheSimulator) -> dict[str, float]:
    simulator.account.clock.advance(wanted.seconds)
    return await clock(simulator)


@router.get("/requests", summary="The requests so far, oldest first.")
async def requests(simulator: TheSimulator) -> list[dict[str, Any]]:
    return [asdict(entry) for entry in simulator.log.all()]


@router.delete("/requests", summary="Forget the requests so far.")
async def clear_requests(simulator: TheSimulator) -> dict[str, str]:
    simulator.log.clear()
    return {"status": "cleared"}


def _entry(account: Account, charge: Json) -> Json:
    withdrawn = -sum(
        transaction["amount"]
        for dispute in account.disputes.having("charge", charge["id"])
        for transaction in dispute["balance_transactions"]
    )
    refunded = sum(
        refund["amount"]
        for refund in account.refunds.having("charge", charge["id"])
        if refund["status"] not in ("failed", "canceled")
    )
    return {
        "charge": charge["id"],
        "payment_intent": charge["payment_intent"],
        "customer": charge["customer"],
        "payment_method": charge["payment_method"],
        "amount_minor": charge["amount_captured"],
        "currency": charge["currency"],
        "refunded": refunded,
        "disputed": withdrawn,
        "metadata": charge["metadata"],
        "created": charge["created"],
    }
