"""The faults that are set, of the API or of webhooks, and which of them hits next."""

import itertools
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar


class CountedFault(Protocol):
    """What a registry keeps of a fault."""

    fault_id: str
    count: int | None
    """How many matches it hits; None for all."""
    skip: int
    """How many matches pass before the first hit."""
    hits: int
    passed: int


FaultT = TypeVar("FaultT", bound=CountedFault)


class FaultRegistry(Generic[FaultT]):
    """Faults of one kind, oldest first."""

    def __init__(self, id_prefix: str) -> None:
        self._id_prefix = id_prefix
        self._faults: dict[str, FaultT] = {}
        self._numbers = itertools.count(1)

    def add(self, fault: FaultT) -> FaultT:
        fault.fault_id = f"{self._id_prefix}_{next(self._numbers)}"
        self._faults[fault.fault_id] = fault
        return fault

    def all(self) -> list[FaultT]:
        return list(self._faults.values())

    def remove(self, fault_id: str) -> bool:
        return self._faults.pop(fault_id, None) is not None

    def clear(self) -> None:
        self._faults.clear()

    def hit(self, matches: Callable[[FaultT], bool]) -> FaultT | None:
        """The first matching fault that is neither used up nor skipping, counted as hit."""
        for fault in self._faults.values():
            if (fault.count is not None and fault.hits >= fault.count) or not matches(fault):
                continue
            if fault.passed < fault.skip:
                fault.passed += 1
                continue
            fault.hits += 1
            return fault
        return None
