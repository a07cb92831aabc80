"""Where the logs of a topic begin and end."""

from stream.errors import SetupError
from stream.kafka.admin import find_topics
from stream.kafka.cluster import admin_client, log_ranges
from stream.settings import Settings


def log_bounds(settings: Settings, name: str) -> dict[int, tuple[int, int]]:
    """First offset and end of each partition of a topic, as a reader of what is committed sees them.

    Raises:
        SetupError: there is no such topic, or no answer.
    """
    topic = settings.topic(name)
    found = find_topics(settings.bootstrap, [topic])
    if topic not in found:
        raise SetupError(f"no such topic: {topic}. `python -m stream topics create` makes what is missing.")
    places = [(topic, partition) for partition in range(found[topic].topic.partitions)]
    ranges = log_ranges(admin_client(settings.bootstrap), places)
    return {partition: ranges[topic, partition] for _, partition in places}
