"""Load beside a measurement: clicks of now at an even rate, until it is told to stop.

A program of its own, so that it does not take the time of the one that measures: `python -m tests.bench.beside`, its
parameters in the environment (`PEER_*`, see `main`).
"""

import os
import time
from itertools import count

import numpy as np
from confluent_kafka import Producer

from tests.bench.load import clicks, users_at_random

TICK_MS = 20


def main() -> None:
    """Publish without end.

    Environment: PEER_BOOTSTRAP, PEER_PREFIX (of the topic), PEER_USERS, PEER_RATE_PER_S, PEER_SEED.
    """
    given = os.environ
    users, rate_per_s, seed = (int(given[name]) for name in ("PEER_USERS", "PEER_RATE_PER_S", "PEER_SEED"))
    rng = np.random.default_rng(seed)
    producer = Producer(
        {
            "bootstrap.servers": given["PEER_BOOTSTRAP"],
            "partitioner": "murmur2",
            "enable.idempotence": True,
            "linger.ms": 5,
            "compression.type": "lz4",
        }
    )
    began_s = time.monotonic()
    for tick in count():
        time.sleep(max(began_s + tick * TICK_MS / 1000 - time.monotonic(), 0))
        drawn = users_at_random(rng, users, rate_per_s * TICK_MS // 1000)
        for record in clicks(rng, drawn, time.time_ns() // 1_000_000, f"beside-{began_s}-{tick}", TICK_MS):
            producer.produce(given["PEER_PREFIX"] + record.topic, record.value, record.key)
        producer.poll(0)


if __name__ == "__main__":
    main()
