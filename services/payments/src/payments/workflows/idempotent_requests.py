"""What every request that must not be done twice has in common."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from payments import refusals
from payments.repository.idempotency import KnownRequest


@dataclass(frozen=True, slots=True)
class Buyer:
    """Who asks: the token's tenant and subject."""

    tenant: str
    subject: str


def check_same_input(known: KnownRequest, input_hash: str) -> None:
    """Raises a Problem 409 where the key was used for something else."""
    if known.input_hash != input_hash:
        raise refusals.key_reused()


def hash_of(value: Any) -> str:
    """SHA-256 of a value's JSON, keys sorted."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
