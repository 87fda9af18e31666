"""One Stripe account in memory: its objects, its clock, and the events that its changes cause."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from pydantic_core import from_json, to_json

from stripe_simulator.cards.behaviour import CardState
from stripe_simulator.clock import Clock
from stripe_simulator.collection import Collection
from stripe_simulator.contract import Contract, Json, load_contract
from stripe_simulator.errors import InvalidRequest
from stripe_simulator.ids import new_id
from stripe_simulator.settings import Settings


@dataclass(frozen=True)
class ApiRequest:
    """The request that events name as their cause."""

    request_id: str | None = None
    idempotency_key: str | None = None


@dataclass(frozen=True)
class Endpoint:
    """Where webhooks go. While a secret is being rolled, both the new and the old one sign."""

    secrets: tuple[str, ...]


@dataclass
class EventRecord:
    """An event, the bytes that every delivery of it carries, and the endpoints which have not answered 2xx yet."""

    event: Json
    body: bytes
    undelivered_to: set[str] = field(default_factory=set[str])


def snapshot(item: Json) -> Json:
    """A copy that later changes don't reach."""
    copy: Json = from_json(to_json(item))
    return copy


class Account:
    """Everything an operation reads and changes. Its methods never await, so an operation is one atomic step."""

    def __init__(self, settings: Settings, clock: Clock | None = None, contract: Contract | None = None) -> None:
        self.settings = settings
        self.clock = clock or Clock()
        self.contract = contract or load_contract()
        self.request = ApiRequest()
        self.customers = Collection("customer", ["email"])
        self.payment_methods = Collection("PaymentMethod", ["customer"])
        self.payment_intents = Collection("payment_intent", ["customer"])
        self.setup_intents = Collection("setupintent", ["customer", "payment_method"])
        self.charges = Collection("charge", ["customer", "payment_intent"])
        self.refunds = Collection("refund", ["charge", "payment_intent"])
        self.disputes = Collection("dispute", ["charge", "payment_intent"])
        self.balance_transactions = Collection("balance transaction", ["source", "type"])
        self.webhook_endpoints = Collection("webhook endpoint")
        self.events = Collection("event", ["type", "_delivered"])
        self.cards: dict[str, CardState] = {}
        self.endpoints: dict[str, Endpoint] = {}
        self.event_records: dict[str, EventRecord] = {}
        self._outgoing: list[EventRecord] = []
        self._postponed: list[tuple[float, Callable[[], None]]] = []
        self._by_prefix = {
            "cus": self.customers,
            "pm": self.payment_methods,
            "pi": self.payment_intents,
            "seti": self.setup_intents,
            "ch": self.charges,
            "re": self.refunds,
            "dp": self.disputes,
            "txn": self.balance_transactions,
            "evt": self.events,
            "we": self.webhook_endpoints,
        }

    def find(self, item_id: str) -> Json | None:
        """The object with this id, of whichever kind."""
        collection = self._by_prefix.get(item_id.split("_", 1)[0])
        return collection.get(item_id) if collection is not None else None

    def require(self, collection: Collection, item_id: str, path_param: str) -> Json:
        """The object that a path names; 404 as Stripe says it when there is none."""
        item = collection.get(item_id)
        if item is None:
            raise InvalidRequest(
                f"No such {collection.kind}: '{item_id}'", status=404, code="resource_missing", param=path_param
            )
        return item

    def emit(self, event_type: str, item: Json, previous: Json | None = None) -> Json:
        """Record an event with the object as it is now, to be delivered to every endpoint that asked for its type."""
        undelivered_to = {
            endpoint["id"]
            for endpoint in self.webhook_endpoints
            if endpoint["status"] == "enabled" and _wants(endpoint["enabled_events"], event_type)
        }
        event: Json = {
            "id": new_id("evt"),
            "object": "event",
            "api_version": self.contract.api_version,
            "created": self.clock.now(),
            "data": {"object": snapshot(item)},
            "livemode": False,
            "pending_webhooks": len(undelivered_to),
            "request": {"id": self.request.request_id, "idempotency_key": self.request.idempotency_key},
            "type": event_type,
        }
        if previous is not None:
            event["data"]["previous_attributes"] = previous
        record = EventRecord(event, to_json(event, indent=2), undelivered_to)
        self.events.add(event)
        self.events.add_to_index(event, "_delivered", "no" if undelivered_to else "yes")
        self.event_records[event["id"]] = record
        self._outgoing.append(record)
        return event

    def mark_delivered(self, record: EventRecord, endpoint_id: str) -> None:
        """An endpoint has answered 2xx."""
        self._no_longer_pending(record, endpoint_id)

    def forget_endpoint(self, endpoint_id: str) -> None:
        """Nothing is owed any more to an endpoint that was deleted."""
        for event in self.events.having("_delivered", "no"):
            self._no_longer_pending(self.event_records[event["id"]], endpoint_id)

    def _no_longer_pending(self, record: EventRecord, endpoint_id: str) -> None:
        if endpoint_id not in record.undelivered_to:
            return
        record.undelivered_to.discard(endpoint_id)
        record.event["pending_webhooks"] = len(record.undelivered_to)
        if not record.undelivered_to:
            self.events.remove_from_index(record.event, "_delivered", "no")
            self.events.add_to_index(record.event, "_delivered", "yes")

    def peek_outgoing(self) -> list[EventRecord]:
        """The events recorded since they were last taken."""
        return list(self._outgoing)

    def take_outgoing(self) -> list[EventRecord]:
        """The events recorded since the last call, for the sender."""
        outgoing, self._outgoing = self._outgoing, []
        return outgoing

    def postpone(self, delay_s: float, work: Callable[[], None]) -> None:
        """Have something happen by itself later, such as a refund that comes back."""
        self._postponed.append((delay_s, work))

    def take_postponed(self) -> list[tuple[float, Callable[[], None]]]:
        """What has been postponed since the last call, with its delay in seconds, for the loop to run."""
        postponed, self._postponed = self._postponed, []
        return postponed


def _wants(enabled_events: Iterable[str], event_type: str) -> bool:
    return any(wanted in ("*", event_type) for wanted in enabled_events)
