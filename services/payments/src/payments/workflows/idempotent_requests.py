"""What every request that must not be done twice has in common."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Self

from payments.repository.idempotency import RequestKey, StoredRequest
from payments.workflows.refusals import KeyReused


@dataclass(frozen=True, slots=True)
class IdempotentRequest:
    """A request under its idempotency key. A repetition has the same `input_hash`."""

    key: RequestKey
    input_hash: str

    @classmethod
    def of(cls, tenant: str, route: str, key: str, body: Any) -> Self:
        """The request of a tenant with this `Idempotency-Key` and JSON body."""
        return cls(RequestKey(tenant, route, key), hash_of(body))

    @property
    def tenant(self) -> str:
        return self.key.tenant

    def check_repeats(self, stored: StoredRequest) -> None:
        """Raises `KeyReused` where the key was used for another body."""
        if stored.input_hash != self.input_hash:
            raise KeyReused


def hash_of(value: Any) -> str:
    """SHA-256 of a value's JSON, keys sorted."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
