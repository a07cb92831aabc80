"""What goes wrong with the embedded broker."""

from stream.errors import SetupError


class BrokerError(SetupError):
    """The broker could not be fetched, started, stopped or reached. The message says what to do; nothing retries it."""


class PortTakenError(BrokerError):
    """A port was free when we looked and taken when Kafka came; with a port of our own choice, another is tried."""
