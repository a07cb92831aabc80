"""What a partition's code works with outside of the process, given to it: the simulation in tests gives its own."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient

from stream.kafka.cluster import admin_client
from stream.kafka.rocksdb import Databases

Configuration = dict[str, Any]


@dataclass(frozen=True)
class Outside:
    """Databases on the disk, and makers of clients: librdkafka's, unless something else is said."""

    databases: Databases
    producer: Callable[[Configuration], Producer] = Producer
    consumer: Callable[[Configuration], Consumer] = Consumer
    admin: Callable[[str, str], AdminClient] = admin_client
    """Of bootstrap servers and a name for the brokers' logs."""
