"""What training says when it cannot go on: part of the tree in `stream.errors`."""

from stream.errors import OfferstreamError


class TrainingError(OfferstreamError):
    """The events or a file are not usable; the message says what was found and what to do. Exit code 1."""
