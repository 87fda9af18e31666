"""Control routes for webhooks: faults, release, redelivery, waiting, secrets."""

from dataclasses import asdict
from fnmatch import fnmatchcase
from typing import Any

from fastapi import APIRouter, HTTPException
from pydantic import BaseModel, Field

from stripe_simulator.control.access import TheSimulator, found
from stripe_simulator.resources.webhook_endpoints import roll_secret
from stripe_simulator.webhooks.faults import WebhookFault, WebhookFaultKind

router = APIRouter(prefix="/webhooks")


class NewWebhookFault(BaseModel, extra="forbid"):
    kind: WebhookFaultKind
    event_type: str = Field("*", description="A pattern such as `payment_intent.*`.")
    count: int | None = Field(1, ge=1, description="How many deliveries it hits; null for all.")
    skip: int = Field(0, ge=0)
    seconds: float = Field(1.0, ge=0, le=600, description="delay: how long.")
    copies: int = Field(1, ge=1, le=100, description="duplicate: how many more.")


class Release(BaseModel, extra="forbid"):
    shuffle: bool = False
    seed: int | None = Field(None, description="For the same order again.")
    copies: int = Field(1, ge=1, le=10, description="How often each is sent.")


class Redeliver(BaseModel, extra="forbid"):
    event: str | None = Field(None, description="An event's id; or")
    event_type: str | None = Field(None, description="a pattern: every event of such a type.")
    undelivered_only: bool = False


class Settle(BaseModel, extra="forbid"):
    timeout_s: float = Field(10.0, gt=0, le=120)


class RollSecret(BaseModel, extra="forbid"):
    keep_old: bool = Field(True, description="Whether the old secret goes on signing beside the new one.")


@router.get("", summary="Where deliveries stand.")
async def standing(simulator: TheSimulator) -> dict[str, int]:
    sender = simulator.sender
    undelivered = len(simulator.account.events.having("_delivered", "no"))
    return asdict(sender.counts) | {
        "under_way": sender.under_way,
        "held": len(sender.held),
        "events_undelivered": undelivered,
    }


@router.get("/attempts", summary="Every attempt to deliver, oldest first.")
async def attempts(simulator: TheSimulator) -> list[dict[str, Any]]:
    return [asdict(attempt) for attempt in simulator.sender.attempts]


@router.post("/faults", summary="Lose, repeat, delay or hold back webhooks.")
async def add_fault(wanted: NewWebhookFault, simulator: TheSimulator) -> dict[str, Any]:
    return asdict(simulator.sender.faults.add(WebhookFault(**wanted.model_dump())))


@router.get("/faults", summary="The webhook faults that are set, and how often each was hit.")
async def faults(simulator: TheSimulator) -> list[dict[str, Any]]:
    return [asdict(fault) for fault in simulator.sender.faults.all()]


@router.delete("/faults", summary="Remove all webhook faults; what is held stays held.")
async def clear_faults(simulator: TheSimulator) -> dict[str, str]:
    simulator.sender.faults.clear()
    return {"status": "cleared"}


@router.delete("/faults/{fault_id}", summary="Remove one webhook fault.")
async def remove_fault(fault_id: str, simulator: TheSimulator) -> dict[str, str]:
    if not simulator.sender.faults.remove(fault_id):
        raise HTTPException(404, f"There is no webhook fault {fault_id}.")
    return {"status": "removed"}


@router.post("/release", summary="Send what is held, shuffled and repeated if asked for.")
async def release(wanted: Release, simulator: TheSimulator) -> dict[str, int]:
    return {"sent": simulator.sender.release(shuffle=wanted.shuffle, seed=wanted.seed, copies=wanted.copies)}


@router.post("/redeliver", summary="Send events again, whether they were delivered or not.")
async def redeliver(wanted: Redeliver, simulator: TheSimulator) -> dict[str, int]:
    account = simulator.account
    if wanted.event is not None:
        events = [found(account.events, wanted.event)]
    else:
        pattern = wanted.event_type or "*"
        events = [event for event in account.events if fnmatchcase(event["type"], pattern)]
    records = [account.event_records[event["id"]] for event in events]
    chosen = [record for record in records if record.undelivered_to or not wanted.undelivered_only]
    return {"sent": sum(simulator.sender.send_again(record) for record in chosen)}


@router.post("/settle", summary="Wait until no delivery is under way; held and lost ones don't count.")
async def settle(wanted: Settle, simulator: TheSimulator) -> dict[str, int | bool]:
    sender = simulator.sender
    settled = await sender.wait_until(lambda: sender.under_way == 0, wanted.timeout_s)
    return {"settled": settled} | await standing(simulator)


@router.post("/endpoints/{endpoint_id}/roll_secret", summary="Give an endpoint a new signing secret.")
async def roll(endpoint_id: str, wanted: RollSecret, simulator: TheSimulator) -> dict[str, str]:
    found(simulator.account.webhook_endpoints, endpoint_id)
    return {"secret": roll_secret(simulator.account, endpoint_id, keep_old=wanted.keep_old)}
