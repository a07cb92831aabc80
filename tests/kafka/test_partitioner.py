"""Keys belong where Java producers put them."""

import numpy as np
import pytest
from aiokafka.partitioner import murmur2 as murmur2_of_one
from hypothesis import given
from hypothesis import strategies as st

from stream.kafka.partitioner import murmur2, partitions

# Apache Kafka's own test, org.apache.kafka.common.utils.UtilsTest.testMurmur2: key -> signed 32-bit hash.
PUBLISHED = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


def test_kafkas_published_hashes() -> None:
    assert murmur2(list(PUBLISHED)).view(np.int32).tolist() == list(PUBLISHED.values())


@given(st.lists(st.binary(max_size=80), max_size=40))
def test_many_keys_at_once_hash_as_one_by_one(keys: list[bytes]) -> None:
    assert murmur2(keys).tolist() == [murmur2_of_one(key) & 0xFFFFFFFF for key in keys]


@pytest.mark.parametrize("n", [1, 4, 7, 4096])
def test_partitions_are_javas(n: int) -> None:
    keys = [f"user-{i}".encode() for i in range(500)]
    assert partitions(keys, n).tolist() == [(murmur2_of_one(key) & 0x7FFFFFFF) % n for key in keys]
