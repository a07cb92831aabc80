"""Write docs/cli.md: the help of every command, as the commands themselves tell it.

Called by `make docs`. A test compares the page with what would be written, so help and page cannot drift apart.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from stream.cli import cli as stream_cli
from training.cli import cli as training_cli

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "cli.md"
HEAD = """\
# The command line

Every command with its options, written by `make docs` from the commands' own help. Settings of a worker come from the
environment: [settings.md](settings.md).

Exit codes: 0 done; 1 something outside is not as needed, and the message says what to do; 2 the command line or a
setting is wrong. `Error:` lines go to standard error.
"""
WIDTH = 100


def commands() -> Iterator[tuple[click.Command, click.Context]]:
    """Every command of both programs, a group before what is below it."""
    for program, group in (("python -m stream", stream_cli), ("python -m training", training_cli)):
        context = click.Context(
            group,
            info_name=program,
            terminal_width=WIDTH,
            max_content_width=WIDTH,
            help_option_names=["-h", "--help"],
        )
        yield from below(group, context)


def below(command: click.Command, context: click.Context) -> Iterator[tuple[click.Command, click.Context]]:
    """The command and all below it, in the order in which help lists them."""
    yield command, context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            if not child.hidden:
                yield from below(child, click.Context(child, parent=context, info_name=name))


def page() -> str:
    """The whole page."""
    sections = [
        f"\n## {context.command_path}\n\n```text\n{command.get_help(context).rstrip()}\n```\n"
        for command, context in commands()
    ]
    return HEAD + "".join(sections)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"{PAGE.name} written\n")
