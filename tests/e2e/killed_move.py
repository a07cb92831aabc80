"""`python -m tests.e2e.killed_move POINT repartition ...`: the command, killed with SIGKILL at a named point."""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from stream.cli import main
from stream.kafka import move
from stream.kafka.spread import SpreadProducer


def kill(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before(owner: Any, name: str, times: int = 1) -> None:
    """Die where `name` is called the `times`-th time."""
    original: Callable[..., Any] = getattr(owner, name)
    left = [times]

    def counted(*args: Any, **options: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            kill()
        return original(*args, **options)

    setattr(owner, name, counted)


def at_point(point: str) -> None:
    """See `tests.e2e.test_repartition.POINTS`."""
    if point == "marks":  # the new partitions are marked, nothing is fenced
        before(move, "_fence")
    elif point == "rows":  # within the second transaction of rows: it stays open
        before(SpreadProducer, "_commit", 2)
    elif point == "all_rows":
        before(move, "read_control")
    elif point == "closing":  # one old partition is closed
        before(move._Move, "_close", 2)
    elif point == "closed":
        before(move._Move, "_open")
    elif point == "opening":  # its transaction is not committed
        _within(move._Move, "_open")
    elif point == "sending":
        _within(move._Move, "_forward_partition")
    elif point == "sent":  # one partition's events are over, the other one's are sent and not committed
        before(SpreadProducer, "_commit", 2)
    else:
        raise SystemExit(f"no such point: {point}")


def _within(owner: Any, name: str) -> None:
    """Die at the first commit in that function, everything delivered."""
    original: Callable[..., Any] = getattr(owner, name)

    def armed(*args: Any, **options: Any) -> Any:
        def commit(self: SpreadProducer) -> None:
            self._producer.flush(10)
            kill()

        SpreadProducer._commit = commit  # type: ignore[method-assign]
        return original(*args, **options)

    setattr(owner, name, armed)


if __name__ == "__main__":
    at_point(sys.argv.pop(1))
    main()
