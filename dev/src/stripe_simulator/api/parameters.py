"""Parses parameters such as `a[b][0]=c` into objects, and checks them against the contract's schema."""

import re
from collections.abc import Iterable
from typing import Any

from stripe_simulator.contract import Json
from stripe_simulator.errors import InvalidRequest

_NAME = re.compile(r"^([^\[\]]+)((?:\[[^\[\]]*\])*)$")
_INTEGER = re.compile(r"^-?\d{1,18}$")
_CURRENCY = re.compile(r"^[A-Za-z]{3}$")
_DEPTH_MAX = 8
# An id is never unset by an empty string, as a text may be.
_NEVER_EMPTY = frozenset(("customer", "payment_method", "payment_intent", "charge", "currency", "client_secret", "url"))


def nested(pairs: Iterable[tuple[str, str]]) -> Json:
    """The form or query as nested objects; `a[]` and `a[0]` become an object with the indexes as keys."""
    tree: Json = {}
    for name, value in pairs:
        match = _NAME.match(name)
        if match is None:
            raise InvalidRequest(f"Invalid parameter name: {name}", param=name)
        keys = [match[1], *re.findall(r"\[([^\[\]]*)\]", match[2])]
        if len(keys) > _DEPTH_MAX:
            raise InvalidRequest(f"Parameters may be nested {_DEPTH_MAX} deep at most: {name}", param=name)
        node = tree
        for key in keys[:-1]:
            inner = node.setdefault(key or str(len(node)), {})
            if not isinstance(inner, dict):
                raise InvalidRequest(f"Invalid parameter: {name} is given both as a value and as an object", param=name)
            node = inner
        node[keys[-1] or str(len(node))] = value
    return tree


def checked(schema: Json, given: Json) -> Json:
    """The parameters, converted to their types. Raises Stripe's error for the first that is wrong."""
    return _object(schema, given, "")


def _object(schema: Json, given: Json, path: str) -> Json:
    properties: dict[str, Json] = schema.get("properties", {})
    unknown = [name for name in given if name not in properties]
    if unknown:
        param = _inside(path, unknown[0])
        raise InvalidRequest(f"Received unknown parameter: {param}", code="parameter_unknown", param=param)
    missing = [name for name in schema.get("required", ()) if name not in given]
    if missing:
        param = _inside(path, missing[0])
        raise InvalidRequest(f"Missing required param: {param}.", code="parameter_missing", param=param)
    return {name: _value(properties[name], value, _inside(path, name)) for name, value in given.items()}


def _value(schema: Json, given: Any, path: str) -> Any:
    if "any" in schema:
        return _any(schema["any"], given, path)
    if given == "" and path in _NEVER_EMPTY:
        raise _empty(path)
    match schema["type"]:
        case "object":
            return _map_or_object(schema, given, path)
        case "array":
            return _array(schema, given, path)
        case "integer":
            return _integer(_scalar(given, path), path)
        case "boolean":
            return _boolean(_scalar(given, path), path)
        case _:
            return _string(schema, _scalar(given, path), path)


def _any(schemas: list[Json], given: Any, path: str) -> Any:
    """The first alternative that takes the value; else the error of the one that fits its form best."""
    composite = isinstance(given, dict)
    fitting = [schema for schema in schemas if (schema.get("type") in ("object", "array")) == composite]
    refused: InvalidRequest | None = None
    for schema in fitting or schemas:
        try:
            return _value(schema, given, path)
        except InvalidRequest as error:
            refused = refused or error
    assert refused is not None
    raise refused


def _map_or_object(schema: Json, given: Any, path: str) -> Json:
    if not isinstance(given, dict):
        raise InvalidRequest("Invalid object", param=path)
    if "values" in schema:
        return {key: _value(schema["values"], value, _inside(path, key)) for key, value in given.items()}
    return _object(schema, given, path)


def _array(schema: Json, given: Any, path: str) -> list[Any]:
    if given == "":
        raise _empty(path)
    if not isinstance(given, dict) or not all(key.isdigit() for key in given):
        raise InvalidRequest("Invalid array", param=path)
    items: Json = given
    return [_value(schema["items"], items[index], _inside(path, index)) for index in sorted(items, key=int)]


def _scalar(given: Any, path: str) -> str:
    if isinstance(given, dict):
        raise InvalidRequest(f"Invalid string: {given}", param=path)
    return str(given)


def _integer(given: str, path: str) -> int:
    if given == "":
        raise _empty(path)
    if not _INTEGER.match(given):
        raise InvalidRequest(f"Invalid integer: {given}", code="parameter_invalid_integer", param=path)
    return int(given)


def _boolean(given: str, path: str) -> bool:
    if given == "":
        raise _empty(path)
    if given not in ("true", "false"):
        raise InvalidRequest(f"Invalid boolean: {given}", param=path)
    return given == "true"


def _string(schema: Json, given: str, path: str) -> str:
    allowed: list[str] | None = schema.get("enum")
    if allowed is not None and given not in allowed:
        if given == "":
            raise _empty(path)
        shown = [value for value in allowed if value]
        if len(shown) > 12:
            raise InvalidRequest(f"Invalid {path}: {given} is not one of the values it may have", param=path)
        raise InvalidRequest(f"Invalid {path}: must be one of {_one_of(shown)}", param=path)
    longest: int | None = schema.get("maxLength")
    if longest is not None and len(given) > longest:
        raise InvalidRequest(f"Invalid string: {given[:20]}...; must be at most {longest} characters", param=path)
    if schema.get("format") == "currency" and not _CURRENCY.match(given):
        raise InvalidRequest(f"Invalid currency: {given}", param=path)
    return given


def _one_of(values: list[str]) -> str:
    return values[0] if len(values) == 1 else f"{', '.join(values[:-1])} or {values[-1]}"


def _empty(path: str) -> InvalidRequest:
    return InvalidRequest(
        f"You passed an empty string for '{path}'. We assume empty values are an attempt to unset a parameter; "
        f"however '{path}' cannot be unset. You should remove '{path}' from your request or supply a non-empty value.",
        code="parameter_invalid_empty",
        param=path,
    )


def _inside(path: str, name: str) -> str:
    return f"{path}[{name}]" if path else name
