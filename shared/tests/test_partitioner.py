from aiokafka import partitioner as aiokafka_partitioner
from hypothesis import given
from hypothesis import strategies as st

from shared.partitioner import murmur2, partition_of


@given(st.binary(max_size=80))
def test_the_hash_of_a_key_equals_that_of_aiokafka(key: bytes) -> None:
    assert murmur2(key) == aiokafka_partitioner.murmur2(key) & 0xFFFFFFFF


@given(st.binary(max_size=80), st.integers(1, 50))
def test_the_partition_of_a_key_equals_that_of_aiokafkas_partitioner(key: bytes, n: int) -> None:
    partitions = list(range(n))
    assert partition_of(key, partitions, []) == aiokafka_partitioner.DefaultPartitioner()(key, partitions, partitions)


def test_a_record_without_a_key_goes_to_an_available_partition() -> None:
    assert partition_of(None, [0, 1, 2], [1]) == 1
    assert partition_of(None, [0], []) == 0
