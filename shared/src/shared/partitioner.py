"""The partition of a key, by the rule of Kafka's Java client, which clients in other languages use too.

aiokafka's murmur2 processes a key byte by byte in Python, which is a large part of the cost of a send. This one
processes it in words of 4 bytes. The tests compare both.
"""

import random
import struct
from collections.abc import Sequence

_SEED = 0x9747B28C
_M = 0x5BD1E995
_WORD = 0xFFFFFFFF


def partition_of(key: bytes | None, partitions: Sequence[int], available: Sequence[int]) -> int:
    """Returns the partition of a key, or a random available partition for None. For aiokafka's option `partitioner`."""
    if key is None:
        return random.choice(available or partitions)  # noqa: S311  # not a secret
    return partitions[(murmur2(key) & 0x7FFFFFFF) % len(partitions)]


def murmur2(key: bytes) -> int:
    """Returns the unsigned 32-bit MurmurHash2 with Kafka's seed (org.apache.kafka.common.utils.Utils.murmur2)."""
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
