"""Which partition a key belongs to: Kafka's own rule, for whole batches of keys."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_M = np.uint32(0x5BD1E995)


def murmur2(keys: Sequence[bytes]) -> NDArray[np.uint32]:
    """Kafka's key hash (Java: `org.apache.kafka.common.utils.Utils.murmur2`) of many keys at once, uint32 [N].

    Austin Appleby's MurmurHash2 with Kafka's seed, word by word over all keys that are long enough.
    """
    n = len(keys)
    lengths = np.fromiter(map(len, keys), "i8", n)
    ends = np.cumsum(lengths)
    text = b"".join(keys) + b"\0\0\0\0"
    # Every byte is the start of a little-endian word: words of any key are one gather, and the last one is masked.
    words: NDArray[np.uint32] = np.ndarray((len(text) - 3,), "<u4", text, strides=(1,))
    at = ends - lengths
    h = np.uint32(0x9747B28C) ^ lengths.astype(np.uint32)
    n_words = lengths >> 2
    for i in range(int(n_words.max(initial=0))):
        long = np.flatnonzero(n_words > i) if i >= int(n_words.min()) else slice(None)
        k = words[at[long] + 4 * i] * _M
        k = (k ^ (k >> np.uint32(24))) * _M
        h[long] = (h[long] * _M) ^ k
    rest = (lengths & 3).astype(np.uint32)
    tail = words[at + 4 * n_words] & ((np.uint32(1) << (rest << np.uint32(3))) - np.uint32(1))
    h = np.where(rest > 0, (h ^ tail) * _M, h)
    h = (h ^ (h >> np.uint32(13))) * _M
    return h ^ (h >> np.uint32(15))


def partitions(keys: Sequence[bytes], n_partitions: int) -> NDArray[np.int64]:
    """The partition that a Java producer puts each key into, int64 [N]."""
    return (murmur2(keys) & np.uint32(0x7FFFFFFF)).astype(np.int64) % n_partitions
