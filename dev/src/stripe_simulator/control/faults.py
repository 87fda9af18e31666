"""Control routes for faults of the API."""

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, HTTPException
from pydantic import BaseModel, Field

from stripe_simulator.api.faults import Fault, FaultKind, HangCommit
from stripe_simulator.control.access import TheSimulator

router = APIRouter(prefix="/faults")


class NewFault(BaseModel, extra="forbid"):
    kind: FaultKind
    method: str = Field("POST", description="`*` for any.")
    path: str = Field("/v1/**", description="`*` stands for one segment, `**` for any number of them.")
    count: int | None = Field(1, ge=1, description="How many requests it hits; null for all.")
    skip: int = Field(0, ge=0, description="How many matching requests pass first.")
    seconds: float = Field(30.0, gt=0, le=600, description="hang: how long. webhook_first: how long to wait at most.")
    commit: HangCommit = Field(HangCommit.BEFORE, description="hang: when the request is executed.")
    kept: bool = Field(True, description="error_before: whether the 500 is kept under the key.")
    idempotency_key: str | None = None
    customer: str | None = Field(None, description="Of the request, or of the object that its path names.")
    currency: str | None = Field(None, description="Of the request, or of the object that its path names.")
    metadata: dict[str, str] = Field({}, description="All of these, in the request or on the object it names.")


@router.post("", summary="Put a fault into the API.")
async def add(wanted: NewFault, simulator: TheSimulator) -> dict[str, Any]:
    return asdict(simulator.faults.add(Fault(**wanted.model_dump())))


@router.get("", summary="The faults that are set, and how often each was hit.")
async def listed(simulator: TheSimulator) -> list[dict[str, Any]]:
    return [asdict(fault) for fault in simulator.faults.all()]


@router.delete("", summary="Remove all faults.")
async def clear(simulator: TheSimulator) -> dict[str, str]:
    simulator.faults.clear()
    return {"status": "cleared"}


@router.delete("/{fault_id}", summary="Remove one fault.")
async def remove(fault_id: str, simulator: TheSimulator) -> dict[str, str]:
    if not simulator.faults.remove(fault_id):
        raise HTTPException(404, f"There is no fault {fault_id}.")
    return {"status": "removed"}
