"""Ids that sort by their time of creation, which keeps indexes on them compact."""

import os
import time


def new_id(prefix: str) -> str:
    """Returns `<prefix>_` and 32 hex digits: 48 bits of milliseconds, then 80 random bits, as in UUIDv7 (RFC 9562)."""
    milliseconds = time.time_ns() // 1_000_000
    return f"{prefix}_{milliseconds:012x}{os.urandom(10).hex()}"
