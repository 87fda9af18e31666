"""Idempotency keys by Stripe's rules (https://docs.stripe.com/api/idempotent_requests).

A key belongs to the account and to its first request. Once that has begun to execute, its status and body are kept,
whether it succeeded, was declined (402) or failed (500), and answered again for the same request. What did not begin
to execute is not kept: a validation error, a conflict, a rate limit. After 24 hours a key may be pruned.
"""

from collections import OrderedDict
from dataclasses import dataclass

from stripe_simulator.clock import Clock
from stripe_simulator.errors import ApiError, InvalidRequest, StripeError

_KEY_LENGTH_MAX = 255
_KEPT_S = 24 * 3600


@dataclass(frozen=True)
class Answer:
    """A status and the exact body."""

    status: int
    body: bytes


@dataclass
class _Use:
    endpoint: str
    parameters: str
    first_used: int
    answer: Answer | None = None


class IdempotencyKeys:
    """The keys of one account, oldest first."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._uses: OrderedDict[str, _Use] = OrderedDict()

    def __len__(self) -> int:
        return len(self._uses)

    def begin(self, key: str, endpoint: str, parameters: str) -> Answer | None:
        """Claim the key for a request, or answer what its first use answered.

        Raises 400 for another endpoint or other parameters under the same key, or a key that is too long, and 409
        while the first request is still in flight.
        """
        if len(key) > _KEY_LENGTH_MAX:
            raise InvalidRequest(
                f"The idempotency key provided is too long: {len(key)} characters; the maximum is {_KEY_LENGTH_MAX}."
            )
        self._prune()
        use = self._uses.get(key)
        if use is None:
            self._uses[key] = _Use(endpoint, parameters, self._clock.now())
            return None
        if use.endpoint != endpoint:
            raise _reused(f"for the same endpoint they were first used for ('{use.endpoint}' in this case)", key)
        if use.parameters != parameters:
            raise _reused("with the same parameters they were first used with", key)
        if use.answer is None:
            raise in_use(key)
        return use.answer

    def keep(self, key: str, answer: Answer) -> None:
        """The request has been executed, with this answer."""
        use = self._uses.get(key)
        if use is not None:  # else it was pruned or the simulator reset while the request hung
            use.answer = answer

    def release(self, key: str) -> None:
        """The request did not begin to execute; the key is as if never used."""
        self._uses.pop(key, None)

    def _prune(self) -> None:
        oldest_kept = self._clock.now() - _KEPT_S
        while self._uses:
            key, use = next(iter(self._uses.items()))
            if use.first_used >= oldest_kept or use.answer is None:
                return
            del self._uses[key]


def in_use(key: str) -> ApiError:
    """409: another request with this key is in flight."""
    return ApiError(
        409,
        "There is currently another in-progress request using this Idempotent Key (that probably means you submitted "
        f"twice, and the other request is still going through): {key}. Please try again later.",
        code="idempotency_key_in_use",
    )


def _reused(how: str, key: str) -> StripeError:
    return StripeError(
        400,
        "idempotency_error",
        f"Keys for idempotent requests can only be used {how}. Try using a key other than '{key}' if you meant to "
        "execute a different request.",
    )
