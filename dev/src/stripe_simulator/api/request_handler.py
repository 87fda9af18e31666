"""Answers a request by Stripe's rules for idempotency keys, parameters, retries and failures.

Between claiming an idempotency key and storing its answer nothing awaits, unless a fault requires it, and the operation
itself never does. So an operation and its stored answer are one atomic step.
"""

import asyncio
import hashlib
import logging
import time
from collections.abc import Container
from dataclasses import dataclass, replace
from urllib.parse import parse_qsl

from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from stripe_simulator.account import ApiRequest
from stripe_simulator.api.authentication import authenticate
from stripe_simulator.api.expansion import check_expandable, expanded
from stripe_simulator.api.faults import Fault, FaultKind, HangCommit, RequestFacts
from stripe_simulator.api.idempotency import Answer, in_use
from stripe_simulator.api.operations import OPERATIONS
from stripe_simulator.api.parameters import checked, nested
from stripe_simulator.api.replies import CutOffResponse, answer_response
from stripe_simulator.api.request_log import LogEntry
from stripe_simulator.contract import Json, OperationSpec
from stripe_simulator.errors import ApiError, InvalidRequest, StripeError
from stripe_simulator.ids import new_id
from stripe_simulator.resources.call import Call
from stripe_simulator.simulator import Simulator

_logger = logging.getLogger(__name__)

_REFUSING = frozenset((FaultKind.CONFLICT, FaultKind.RATE_LIMIT))
_LOSING = frozenset((FaultKind.HANG, FaultKind.DROP_ANSWER))
_EXECUTING = frozenset(FaultKind) - _REFUSING


@dataclass(frozen=True)
class _Incoming:
    """A request that has been read and authenticated."""

    spec: OperationSpec
    request_id: str
    facts: RequestFacts
    path_params: dict[str, str]
    params: Json
    publishable: bool
    fingerprint: str

    @property
    def key(self) -> str | None:
        return self.facts.idempotency_key


@dataclass(frozen=True)
class _Outcome:
    """What the caller gets: the answer, or a closed connection where `cut_off`."""

    answer: Answer
    replayed: bool = False
    cut_off: bool = False
    fault: Fault | None = None


class _Abandoned(Exception):
    """The simulator was reset while the request hung: it must not be executed or logged any more."""


class RequestHandler:
    """Answers the operations of the contract for one simulator."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator

    async def answer(self, spec: OperationSpec, request: Request) -> Response:
        received_at = time.time()
        request_id = new_id("req", 14)
        key = request.headers.get("idempotency-key") if spec.method == "POST" else None
        try:
            incoming = await self._read(spec, request, request_id, key)
            outcome = await self._respond(incoming)
        except _Abandoned:
            return CutOffResponse(b"{}")
        except StripeError as error:
            outcome = _Outcome(_error_answer(error, request_id))
        self._log(request, received_at, request_id, key, outcome)
        if outcome.cut_off:
            return CutOffResponse(outcome.answer.body)
        return answer_response(
            outcome.answer, request_id, self._simulator.contract.api_version, key, replayed=outcome.replayed
        )

    async def refuse_unknown(self, request: Request) -> Response:
        """404 for an unknown URL, or an operation that the simulator does not implement."""
        received_at = time.time()
        request_id = new_id("req", 14)
        error = InvalidRequest(
            f"Unrecognized request URL ({request.method}: {request.url.path}). Please see https://stripe.com/docs or "
            "we can help at https://support.stripe.com/. (The Stripe simulator lists what it carries out in its "
            "README.)",
            status=404,
        )
        outcome = _Outcome(_error_answer(error, request_id))
        self._log(request, received_at, request_id, None, outcome)
        return answer_response(outcome.answer, request_id, self._simulator.contract.api_version, None, replayed=False)

    async def _read(self, spec: OperationSpec, request: Request, request_id: str, key: str | None) -> _Incoming:
        body = await _body(request, self._simulator.settings.body_bytes_max)
        pairs = parse_qsl(request.url.query, keep_blank_values=True)
        if body:
            _check_form(request)
            pairs += parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True)
        authorization = request.headers.get("authorization")
        key_parameter = next((value for name, value in pairs if name == "key"), None)
        operation = f"{spec.method} {spec.path}"
        caller = authenticate(self._simulator.settings, authorization, key_parameter, operation)
        params = nested((name, value) for name, value in pairs if name != "key")
        path_params: dict[str, str] = dict(request.path_params)
        return _Incoming(
            spec=spec,
            request_id=request_id,
            facts=self._facts(request, key, path_params, params),
            path_params=path_params,
            params=params,
            publishable=caller.publishable,
            fingerprint=hashlib.sha256(to_json(sorted(pairs))).hexdigest(),
        )

    async def _respond(self, incoming: _Incoming) -> _Outcome:
        fault = self._fault(incoming, _REFUSING)
        if fault is not None:
            return _Outcome(_error_answer(_refusal(fault, incoming.key), incoming.request_id), fault=fault)
        if incoming.key is not None:
            endpoint = f"{incoming.spec.method} {incoming.facts.path}"
            kept = self._simulator.keys.begin(incoming.key, endpoint, incoming.fingerprint)
            if kept is not None:
                fault = self._fault(incoming, _LOSING)
                return await self._lose(_Outcome(kept, replayed=True, fault=fault), fault)
        fault = self._fault(incoming, _EXECUTING)
        if fault is not None and fault.kind is FaultKind.HANG and fault.commit is not HangCommit.BEFORE:
            await self._hang(fault)
            if fault.commit is HangCommit.NEVER:
                self._keep(incoming, None)
                return _Outcome(_error_answer(_server_error(), incoming.request_id), cut_off=True, fault=fault)
        return await self._execute(incoming, fault)

    def _fault(self, incoming: _Incoming, kinds: Container[FaultKind]) -> Fault | None:
        """The fault of one of these kinds that hits this request."""
        return self._simulator.faults.hit(lambda fault: fault.kind in kinds and fault.matches(incoming.facts))

    async def _execute(self, incoming: _Incoming, fault: Fault | None) -> _Outcome:
        if fault is not None and fault.kind is FaultKind.ERROR_BEFORE:
            answer = _error_answer(_server_error(), incoming.request_id)
            self._keep(incoming, answer if fault.kept else None)
            return _Outcome(answer, fault=fault)
        if fault is not None and fault.kind is FaultKind.REFUSE:
            self._keep(incoming, None)
            return _Outcome(_error_answer(InvalidRequest("This request is refused."), incoming.request_id), fault=fault)
        answer = self._run(incoming)
        if fault is not None and fault.kind is FaultKind.ERROR_AFTER and answer.status < 400:
            answer = _error_answer(_server_error(), incoming.request_id)
        self._keep(incoming, answer if _began(answer.status) else None)
        events = self._simulator.account.peek_outgoing()
        self._simulator.publish()
        if fault is not None and fault.kind is FaultKind.WEBHOOK_FIRST:
            await self._simulator.sender.wait_until(
                lambda: all(not event.undelivered_to for event in events), self._bounded(fault.seconds)
            )
        return await self._lose(_Outcome(answer, fault=fault), fault)

    def _run(self, incoming: _Incoming) -> Answer:
        """Check the parameters and execute the operation. Does not await, so it is atomic."""
        account = self._simulator.account
        account.request = ApiRequest(incoming.request_id, incoming.key)
        spec = incoming.spec
        try:
            params = checked(spec.parameters, incoming.params)
            expand: list[str] = params.pop("expand", [])
            check_expandable(account.contract, spec.returns, expand)
            call = Call(incoming.path_params, params, incoming.publishable)
            result = OPERATIONS[f"{spec.method} {spec.path}"](account, call)
            return Answer(200, to_json(expanded(account, result, expand), indent=2))
        except StripeError as error:
            return _error_answer(error, incoming.request_id)
        except Exception:
            _logger.exception("the simulator failed at %s %s", spec.method, spec.path)
            return _error_answer(_server_error(), incoming.request_id)
        finally:
            account.request = ApiRequest()

    def _keep(self, incoming: _Incoming, answer: Answer | None) -> None:
        if incoming.key is None:
            return
        if answer is None:
            self._simulator.keys.release(incoming.key)
        else:
            self._simulator.keys.keep(incoming.key, answer)

    async def _lose(self, outcome: _Outcome, fault: Fault | None) -> _Outcome:
        """Delay or cut off the finished answer, if the fault requires it."""
        if fault is None:
            return outcome
        if fault.kind is FaultKind.HANG and fault.commit is HangCommit.BEFORE:
            await self._hang(fault)
        return replace(outcome, cut_off=fault.kind is FaultKind.DROP_ANSWER)

    async def _hang(self, fault: Fault) -> None:
        """Wait as long as the fault says. Raises _Abandoned if the simulator is reset meanwhile."""
        try:
            async with asyncio.timeout(self._bounded(fault.seconds)):
                await self._simulator.started_over.wait()
        except TimeoutError:
            return
        raise _Abandoned

    def _bounded(self, seconds: float) -> float:
        return min(seconds, self._simulator.settings.hang_s_max)

    def _facts(self, request: Request, key: str | None, path_params: dict[str, str], params: Json) -> RequestFacts:
        """What faults match by. Fields that the request lacks are those of the object named in its path."""
        account = self._simulator.account
        named = next((found for found in map(account.find, path_params.values()) if found is not None), {})
        metadata: dict[str, str] = dict(named.get("metadata") or {})
        if isinstance(params.get("metadata"), dict):
            metadata |= {name: str(value) for name, value in params["metadata"].items()}
        customer = params.get("customer") or named.get("customer") or path_params.get("customer")
        currency = params.get("currency") or named.get("currency")
        return RequestFacts(request.method, request.url.path, key, customer, currency, metadata)

    def _log(self, request: Request, received_at: float, request_id: str, key: str | None, outcome: _Outcome) -> None:
        fault = outcome.fault
        self._simulator.log.add(
            LogEntry(
                request_id=request_id,
                received_at=received_at,
                method=request.method,
                path=request.url.path,
                status=None if outcome.cut_off else outcome.answer.status,
                idempotency_key=key,
                replayed=outcome.replayed,
                fault=f"{fault.fault_id}:{fault.kind.value}" if fault else None,
            )
        )


def _began(status: int) -> bool:
    """Whether an answer of this status means that execution began, so that it is kept."""
    return status < 400 or status == 402 or status >= 500


async def _body(request: Request, bytes_max: int) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > bytes_max:
            raise InvalidRequest(f"The request body is larger than {bytes_max} bytes.", status=413)
    return bytes(body)


def _check_form(request: Request) -> None:
    content_type = request.headers.get("content-type", "")
    if not content_type.startswith("application/x-www-form-urlencoded"):
        raise InvalidRequest(
            f"Invalid request (check that your POST content type is application/x-www-form-urlencoded, not "
            f"{content_type or 'missing'})."
        )


def _error_answer(error: StripeError, request_id: str) -> Answer:
    url = f"https://dashboard.stripe.com/test/workbench/logs?object={request_id}"
    return Answer(error.status, to_json({"error": error.error | {"request_log_url": url}}, indent=2))


def _refusal(fault: Fault, key: str | None) -> ApiError:
    if fault.kind is FaultKind.CONFLICT:
        return in_use(key or "")
    return ApiError(429, "Request rate limit exceeded. Learn more about rate limits here.", code="rate_limit")


def _server_error() -> ApiError:
    return ApiError(500, "An unknown error occurred")
