"""Ids that sort by the time they were made, so that indexes on them stay dense."""

import os
import time


def new_id(prefix: str) -> str:
    """`<prefix>_` and 32 hex digits: 48 bits of milliseconds, then 80 random bits (the layout of UUIDv7, RFC 9562)."""
    milliseconds = time.time_ns() // 1_000_000
    return f"{prefix}_{milliseconds:012x}{os.urandom(10).hex()}"
