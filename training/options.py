"""What the commands of `python -m training` share: options, and how expected errors are told."""

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import click

from stream.errors import OfferstreamError

HORIZONS_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}

CONTEXT = {"help_option_names": ["-h", "--help"]}

bootstrap_option = click.option(
    "--bootstrap",
    envvar="KAFKA_BOOTSTRAP",
    default="127.0.0.1:9092",
    show_default=True,
    help="Kafka brokers, host:port, comma-separated (KAFKA_BOOTSTRAP).",
)
prefix_option = click.option(
    "--topic-prefix",
    envvar="OFFERSTREAM_TOPIC_PREFIX",
    default="",
    help="Before the name of every topic (OFFERSTREAM_TOPIC_PREFIX).",
)


class Duration(click.ParamType):
    """A length of time as people write it: 90s, 30m, 1h, 7d; milliseconds in code."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:  # noqa: ANN401
        """Milliseconds."""
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"(\d{1,9})([smhd])", str(value).strip())
        if found is None or int(found[1]) == 0:
            self.fail(f"{value!r} is no length of time such as 90s, 30m, 1h or 7d", param, ctx)
        return int(found[1]) * HORIZONS_MS[found[2]]


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Expected errors as one message and their exit code.

    Raises:
        click.ClickException: with that message.
    """
    try:
        yield
    except OfferstreamError as error:
        said = click.ClickException(str(error))
        said.exit_code = error.exit_code
        raise said from error
    except OSError as error:
        raise click.ClickException(f"{error.filename or ''}: {error.strerror or error}".lstrip(": ")) from error
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package in {"stream", "training", ""}:
            raise
        text = (
            f"this needs the package {package!r}, which is not installed: pip install '.[training]' (or `make setup`)"
        )
        raise click.ClickException(text) from error
