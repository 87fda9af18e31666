"""`python -m shared.events_document > docs/events.md`: our own events, each with its topic and its example."""

import json
import sys
from datetime import UTC, datetime

from shared.events import EVENT_CLASSES, EXAMPLES, DomainEvent, encode
from shared.topics import BY_NAME

HEAD = """# Events

Written by `python -m shared.events_document` from `shared/src/shared/events.py`; a test holds the two together. Each
event is CloudEvents 1.0 in JSON. A reader passes over fields that it does not know and types newer than itself.
"""
_ID = "evt_01"
_TIME = datetime(2026, 9, 1, 12, 0, tzinfo=UTC)


def document() -> str:
    """The whole of docs/events.md."""
    return "\n".join([HEAD, *(_section(kind) for kind in EVENT_CLASSES)])


def _section(kind: type[DomainEvent]) -> str:
    topic = BY_NAME[kind.TOPIC]
    kept = "the newest of each key" if topic.is_state else "for a time"
    example = json.dumps(json.loads(encode(EXAMPLES[kind], event_id=_ID, now=_TIME)), indent=2)
    described = [
        f"- `{name}`: {field.description}" for name, field in kind.model_fields.items() if field.description is not None
    ]
    lines = [
        f"## {kind.TYPE}",
        "",
        " ".join((kind.__doc__ or "").split()),
        "",
        f"Topic `{topic.name}` (kept: {kept}), read by {', '.join(topic.readers)}.",
        "",
        *([*described, ""] if described else []),
        "```json",
        example,
        "```",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(document())
