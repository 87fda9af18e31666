"""Which partition a key belongs to: Kafka's own rule, so that every client of any language agrees.

aiokafka's murmur2 walks the key byte by byte in Python and is a large part of what a send costs; this one takes the key
in words. The tests hold it against aiokafka's.
"""

import random
import struct
from collections.abc import Sequence

_SEED = 0x9747B28C
_M = 0x5BD1E995
_WORD = 0xFFFFFFFF


def partition_of(key: bytes | None, partitions: Sequence[int], available: Sequence[int]) -> int:
    """The partition of a key among all; for a record without a key, any that is available. aiokafka's `partitioner`."""
    if key is None:
        return random.choice(available or partitions)  # noqa: S311  # not a secret
    return partitions[(murmur2(key) & 0x7FFFFFFF) % len(partitions)]


def murmur2(key: bytes) -> int:
    """MurmurHash2 of 32 bits with Kafka's seed (org.apache.kafka.common.utils.Utils.murmur2), unsigned."""
    length = len(key)
    tail_length = length & 3
    hashed = _SEED ^ length
    for word in struct.unpack_from(f"<{length >> 2}I", key):
        word = word * _M & _WORD
        hashed = (hashed * _M ^ (word ^ word >> 24) * _M) & _WORD
    if tail_length:
        hashed = (hashed ^ int.from_bytes(key[length - tail_length :], "little")) * _M & _WORD
    hashed = (hashed ^ hashed >> 13) * _M & _WORD
    return hashed ^ hashed >> 15
