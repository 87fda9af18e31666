"""Metadata: up to 50 keys of up to 40 characters, values of up to 500 (https://docs.stripe.com/api/metadata)."""

from typing import Any

from stripe_simulator.errors import InvalidRequest

_KEYS_MAX, _KEY_LENGTH_MAX, _VALUE_LENGTH_MAX = 50, 40, 500


def merged(existing: dict[str, str], given: Any) -> dict[str, str]:
    """The metadata after an update: keys are added or replaced, an empty value deletes one, `""` deletes all."""
    if given is None:
        return existing
    if given == "":
        return {}
    changed = dict(existing)
    for key, value in given.items():
        if len(key) > _KEY_LENGTH_MAX:
            raise InvalidRequest(
                f"Metadata keys can have up to {_KEY_LENGTH_MAX} characters, but you passed in a key that is "
                f"{len(key)} characters. Invalid key: {key}",
                code="parameter_invalid_string",
                param="metadata",
            )
        if len(value) > _VALUE_LENGTH_MAX:
            raise InvalidRequest(
                f"Metadata values can have up to {_VALUE_LENGTH_MAX} characters, but you passed in a value that is "
                f"{len(value)} characters. Invalid value: {value}",
                code="parameter_invalid_string",
                param=f"metadata[{key}]",
            )
        if value == "":
            changed.pop(key, None)
        else:
            changed[key] = value
    if len(changed) > _KEYS_MAX:
        raise InvalidRequest(
            f"You can only have up to {_KEYS_MAX} metadata keys; this would make {len(changed)}.", param="metadata"
        )
    return changed
