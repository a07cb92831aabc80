"""`python -m stream repartition`: the state moved to topics with more partitions. How: `stream.kafka.move`."""

import dataclasses

import click

from stream.errors import SettingsError
from stream.kafka.admin import settings_from, settings_options
from stream.kafka.move import move


@click.command(
    epilog="""\b
Examples:
  python -m stream repartition --to-partitions 16 --to-app-id offers16 --to-topic-prefix p16- --dry-run
  python -m stream repartition --to-partitions 16 --to-app-id offers16 --to-topic-prefix p16-

\b
In this order (docs/operations.md):
  1. stop all workers; producers may go on
  2. repartition
  3. start workers with OFFERSTREAM_PARTITIONS, OFFERSTREAM_APP_ID and OFFERSTREAM_TOPIC_PREFIX as it says
  4. point producers and readers to the new topics
  5. repartition again, when all have changed: what was published to the old topics meanwhile goes over
"""
)
@click.option("--to-partitions", type=click.IntRange(1, 4096), required=True, help="Of the new topics, for life.")
@click.option("--to-app-id", required=True, help="The new app: names its group, changelog and transactional ids.")
@click.option("--to-topic-prefix", required=True, help="Before the names of the new topics.")
@click.option("--dry-run", is_flag=True, help="Look whether it can be done and how much there is; write nothing.")
@settings_options
def repartition(
    to_partitions: int,
    to_app_id: str,
    to_topic_prefix: str,
    dry_run: bool,
    bootstrap: str | None,
    topic_prefix: str | None,
) -> None:
    """Move rows, budgets and unapplied events to an app of its own topics with another number of partitions.

    Nothing is lost and nothing is applied twice, whatever is killed: call it again, it goes on where it was. The old
    topics stay as they are, for reading; workers of the old app refuse to start from then on. Refuses while workers
    run.
    """
    old = settings_from(bootstrap=bootstrap, topic_prefix=topic_prefix)
    to = dataclasses.replace(old, partitions=to_partitions, app_id=to_app_id, topic_prefix=to_topic_prefix)
    if to.app_id == old.app_id or to.topic_prefix == old.topic_prefix:
        raise SettingsError(
            f"the new app needs a name and a topic prefix of its own; the old ones are {old.app_id!r} and "
            f"{old.topic_prefix!r}"
        )
    done = move(old, to, lambda line: click.echo(line, err=True), dry_run=dry_run)
    verb = "would go" if dry_run else "went"
    click.echo(
        f"{done.rows:,} rows and {done.events:,} unapplied events {verb} from {old.partitions} to {to.partitions} "
        "partitions"
    )
    if not dry_run:
        click.echo(
            f"OFFERSTREAM_PARTITIONS={to.partitions} OFFERSTREAM_APP_ID={to.app_id} "
            f"OFFERSTREAM_TOPIC_PREFIX={to.topic_prefix}"
        )
