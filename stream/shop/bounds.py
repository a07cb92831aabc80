"""Where the logs of a topic begin and end."""

from stream.kafka.cluster import admin_client, log_ranges
from stream.kafka.topics import Topics
from stream.settings import Settings


def log_bounds(settings: Settings, name: str) -> dict[int, tuple[int, int]]:
    """First offset and end of each partition of a topic, as a reader of what is committed sees them.

    Raises:
        SetupError: there is no such topic, or no answer.
    """
    with Topics(settings.bootstrap) as topics:
        places = topics.places([settings.topic(name)])
    ranges = log_ranges(admin_client(settings.bootstrap), places)
    return {partition: ranges[topic, partition] for topic, partition in places}
