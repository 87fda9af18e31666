"""Stripe's public description of its API, cut down to what this simulator answers.

`contract.json` holds names, types, enums and one official fixture per object (stripe/openapi, MIT).
"""

import json
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from pydantic_core import from_json, to_json

Json = dict[str, Any]


@dataclass(frozen=True)
class OperationSpec:
    """One operation: its method, its path template, and the schema its parameters are checked against."""

    method: str
    path: str
    parameters: Json
    returns: str | None
    """The kind of object it answers, also for a list of them; None when the contract does not describe that kind."""


@dataclass(frozen=True)
class Contract:
    """The API version, the operations by `"METHOD /path"`, and the objects' schemas and fixtures by name."""

    api_version: str
    operations: dict[str, OperationSpec]
    objects: dict[str, Json]
    fixtures: dict[str, Json]

    _blanks: dict[str, bytes] = field(default_factory=dict[str, bytes], repr=False)

    def blank(self, kind: str) -> Json:
        """A new object with every field of Stripe's fixture: null where the contract allows it, else the fixture's."""
        if kind not in self._blanks:
            self._blanks[kind] = to_json(self._make_blank(kind))
        made: Json = from_json(self._blanks[kind])
        return made

    def _make_blank(self, kind: str) -> Json:
        properties: Json = self.objects[kind]["properties"]

        def nullable(name: str) -> bool:
            return name not in properties or properties[name].get("nullable", False)

        return {name: None if nullable(name) else value for name, value in self.fixtures[kind].items()}


def _operation(key: str, described: Json) -> OperationSpec:
    method, path = key.split(" ", 1)
    if "form" in described:
        parameters: Json = described["form"]
    else:
        parameters = {"type": "object", "properties": described.get("query", {})}
    returned: Json = described["returns"]
    listed: Json = returned.get("properties", {}).get("data", {}).get("items", {})
    return OperationSpec(method, path, parameters, returned.get("ref") or listed.get("ref"))


_ADDRESS_FIELDS = ("city", "country", "line1", "line2", "postal_code", "state")
_TEXT: Json = {"type": "string", "maxLength": 5000}

# Stripe.js makes payment methods with this call. It is not in the contract, which lists what a server calls.
_CREATE_PAYMENT_METHOD: Json = {
    "type": "object",
    "required": ["type"],
    "properties": {
        "type": {"type": "string", "enum": ["card"]},
        "card": {
            "type": "object",
            "properties": {
                "number": _TEXT,
                "exp_month": {"type": "integer"},
                "exp_year": {"type": "integer"},
                "cvc": _TEXT,
                "token": _TEXT,
            },
        },
        "billing_details": {
            "type": "object",
            "properties": {
                "address": {"type": "object", "properties": dict.fromkeys(_ADDRESS_FIELDS, _TEXT)},
                "email": _TEXT,
                "name": _TEXT,
                "phone": _TEXT,
                "tax_id": _TEXT,
            },
        },
        "allow_redisplay": {"type": "string", "enum": ["always", "limited", "unspecified"]},
        "metadata": {"type": "object", "values": {"type": "string"}},
        "expand": {"type": "array", "items": _TEXT},
        # What Stripe.js sends along and Stripe ignores here.
        "guid": _TEXT,
        "muid": _TEXT,
        "sid": _TEXT,
        "key": _TEXT,
        "payment_user_agent": _TEXT,
        "referrer": _TEXT,
        "time_on_page": _TEXT,
    },
}


def load_contract() -> Contract:
    """Read the contract that is part of this package."""
    described: Json = json.loads(files(__package__ or "stripe_simulator").joinpath("contract.json").read_text())
    operations = {key: _operation(key, operation) for key, operation in described["operations"].items()}
    operations["POST /v1/payment_methods"] = OperationSpec(
        "POST", "/v1/payment_methods", _CREATE_PAYMENT_METHOD, "payment_method"
    )
    return Contract(described["api_version"], operations, described["objects"], described["fixtures"])
