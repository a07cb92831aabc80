"""Offerstream on one page.

    clickstream ─┐
    orders ──────┤                one batch of one partition at a time
    feedback ────┼──> decode ──> absorb ──> score ──> decide ──> emit ──> commit ──> persist
    redemptions ─┤    columns    rows       ONNX      campaigns  offers    Kafka      RocksDB
    customers ───┤                                               decisions
    identities ──┤
    erasures ────┘                                                ^
                                    no event, for too long ───────┘  a sweep over the rows, now and then

`connect` is the Faust app: what it reads and what it does with it. `process` is what happens to the events of one
batch, `answer_silence` to users from whom none came; both are pure. Around them, `stream.kafka.partition` decodes
before and commits after, and `stream.core` knows what an event does to a row.
"""

from collections.abc import Callable
from typing import NamedTuple

import faust
import numpy as np
from numpy.typing import NDArray

from stream.core.absorb import Events, absorb
from stream.core.budget import NO_BUDGETS, Wallet
from stream.core.campaign import CampaignSet
from stream.core.decide import DECISION, Decisions, decide
from stream.core.fold import turns
from stream.core.row import N_FEATURES, Rows, scatter
from stream.core.silence import AGE_MAX_MS
from stream.kafka.cluster import INPUTS
from stream.kafka.control import Control, InForce
from stream.kafka.partitions import Partitions
from stream.kafka.sweep import SWEEP_LOOK_S
from stream.settings import Settings


def connect(app: faust.App, partitions: Partitions, control: Control, settings: Settings) -> None:
    """Declare what the app reads, the table that its rows are, and what it does with each batch."""
    events = app.topic(
        *(settings.topic(name) for name in INPUTS),
        acks=False,  # what is committed, the partitions decide
        value_serializer="raw",
        key_serializer="raw",
    )
    app.Table("rows", partitions=settings.partitions, key_type=bytes, value_type=bytes)

    @app.agent(events, name="offers")
    async def offers(stream: faust.Stream) -> None:
        async for batch in stream:
            await partitions.apply(batch, control.in_force())

    @app.timer(SWEEP_LOOK_S, traced=False)
    async def sweep() -> None:
        await partitions.sweep(control.in_force)  # who fell silent: an offer for what did not happen


class Outcome(NamedTuple):
    """What became of N events; the rows have changed in place."""

    steps: NDArray[np.uint8]
    """[N, F]: what the model saw of each."""
    models: NDArray[np.uint64]
    """[N]: hash of the model that scored it; 0 = none."""
    row_seqs: NDArray[np.uint64]
    """[N]: number of the step in its user's row."""
    decisions: Decisions
    """[N]."""


def process(
    events: Events,
    row: NDArray[np.int64],
    rows: Rows,
    in_force: InForce,
    now_ms: int,
    draws: NDArray[np.float64],
    offer_max_age_ms: int,
    lap: Callable[[str], None],
    wallet: Wallet = NO_BUDGETS,
) -> Outcome:
    """Absorb, score and decide one batch. Same input, same output.

    Args:
        events: EVENT [N], fenced, without duplicates, in the order in which they apply.
        row: [N], each event's place in `rows`.
        rows: ROW [U], the batch's users; changed in place.
        in_force: models and campaigns.
        now_ms: time of the decisions.
        draws: [N], in [0, 1).
        offer_max_age_ms: an older trigger gets no offer.
        lap: called with the name of each stage as it ends.
        wallet: the partition's budgets; what is spent and reserved changes in place.
    """
    if wallet:
        wallet.settle(events, row, rows)
    steps = np.zeros((len(events), N_FEATURES), np.uint8)
    models, row_seqs = np.zeros((2, len(events)), np.uint64)
    decisions = np.zeros(len(events), DECISION)
    for turn in turns(events, row, rows):  # one round: each user at most once
        steps[turn.at] = step = absorb(turn.events, turn.rows)
        lap("absorb")
        scores, models[turn.at] = in_force.scorer.score(step, turn.events["user"], turn.rows)
        lap("score")
        decided = decide(
            turn.events, turn.rows, scores, in_force.campaigns, now_ms, draws[turn.at], offer_max_age_ms, wallet
        )
        scatter(decisions, turn.at, decided)
        row_seqs[turn.at] = turn.rows["seq"]
        lap("decide")
    return Outcome(steps, models, row_seqs, decisions)


def answer_silence(
    silences: Events,
    rows: Rows,
    campaigns: CampaignSet,
    now_ms: int,
    draws: NDArray[np.float64],
    wallet: Wallet = NO_BUDGETS,
) -> Outcome:
    """Decide about users from whom nothing came: there is no event to absorb or to score. Same input, same output.

    Args:
        silences: EVENT [N], as `stream.core.silence.as_triggers` makes them, of different users.
        rows: ROW [N]; the fields on offers change in place where one is made.
        campaigns: a set that asks those that wait for this silence.
        now_ms: time of the decisions.
        draws: [N], in [0, 1).
        wallet: the partition's budgets; what is reserved changes in place.
    """
    n = len(silences)
    unscored = np.full((n, 1), np.nan, np.float32)
    decisions = decide(silences, rows, unscored, campaigns, now_ms, draws, AGE_MAX_MS, wallet)
    return Outcome(np.zeros((n, N_FEATURES), np.uint8), np.zeros(n, np.uint64), rows["seq"].copy(), decisions)
