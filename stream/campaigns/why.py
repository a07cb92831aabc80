"""Why an offer was made: the user's events up to it are replayed, and the decision is made again.

What is replayed goes through the functions that the worker calls, with the model and the campaigns of that time, the
recorded time, draw and dual price. It is compared with what was recorded, so that what is told is known to be so.
"""

from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from stream.campaigns.evidence import ControlLog, Decision, History
from stream.core.absorb import Events, absorb, apply_order, is_duplicate
from stream.core.budget import Purse, Wallet, offer_key
from stream.core.campaign import Campaign, CampaignSet
from stream.core.decide import Decisions, Reason, decide
from stream.core.events import EVENT
from stream.core.facts import Triggers
from stream.core.fold import turns
from stream.core.parity import Tally
from stream.core.policies import arm_values
from stream.core.row import Rows, new_rows
from stream.kafka.decode import decode
from stream.scoring.model import Model, unscored

EITHER_MAX = 6
"""Events whose batch is not known for which both possible ones are tried."""

_PLENTY_MINOR = 2**62
_ONE = np.zeros(1, np.int64)
COMPARED = ("campaign_id", "campaign_version", "arm", "eligible", "holdout", "reason", "propensity", "score")


class Made(NamedTuple):
    """A decision made again."""

    told: dict[str, Any]
    """What a decision says, by the names of its record, with `row_seq` and `step`."""
    campaign: Campaign | None
    arms: list[dict[str, Any]]
    """Of the campaign that decided: what its policy saw in each arm."""
    asked: list[dict[str, str]]
    """All campaigns in the order in which they are asked, each with what it says of this trigger."""


class Why(NamedTuple):
    """The answer."""

    decision: Decision
    """As recorded."""
    again: Made
    differences: list[str]
    """Between the two; none = it is reproduced."""
    n_events: int
    """Replayed."""


def why(
    decision: Decision, history: History, control: ControlLog, sources: dict[str, str], currency: str, max_age_ms: int
) -> Why:
    """Make a decision again.

    No record says which events were in one batch, and within a batch events apply by event time. So orders are tried:
    batches as far as all decisions of the partition tell them, where they leave a choice the latest one, then the
    earliest of some; then publication, then event time.

    Args:
        decision: as recorded.
        history: of its user.
        control: models and campaigns.
        sources: source by name of its topic.
        currency: the workers'.
        max_age_ms: the workers' `offer_max_age_ms`.

    Raises:
        LookupError: the model, the campaign's version, or the trigger are not there any more; or there was none.
    """
    if decision["trigger"]["kind"] == "silence":
        raise LookupError("it answers that nothing came; only what answers an event is replayed")
    log = _Log.of(history, sources, currency)
    place = decision["trigger"]["topic"], decision["trigger"]["offset"]
    if place not in log.at:
        raise LookupError(f"the trigger, offset {place[1]} of {place[0]}, is not there any more")
    answers = []
    for order in log.orders(log.at[place], decision["time_ms"]):
        answer = _replay(decision, log, order, control, max_age_ms)
        if not answer.differences:
            return answer
        answers.append(answer)
    return min(answers, key=lambda answer: len(answer.differences))


class _Log(NamedTuple):
    """A user's events, with the decisions on them."""

    events: Events
    published_ms: NDArray[np.int64]
    batch_ms: NDArray[np.int64]
    """[N, 2]: the earliest and the latest batch that each can have been in."""
    decisions: list[Decision | None]
    at: dict[tuple[str, int], int]

    @classmethod
    def of(cls, history: History, sources: dict[str, str], currency: str) -> "_Log":
        parts, published, places = [np.empty(0, EVENT)], [np.empty(0, np.int64)], []
        for topic, source in sources.items():
            records = history.records[source]
            found = decode(source, records, history.partition, history.n_partitions, currency, topic)
            stamps = {record.offset: record.timestamp for record in records}
            offsets = found.events["offset"].tolist()
            parts.append(found.events)
            published.append(np.array([stamps[offset] for offset in offsets], np.int64))
            places += [(topic, offset) for offset in offsets]
        decisions = [history.decisions.get(place) for place in places]
        at = {place: i for i, place in enumerate(places)}
        published_ms = np.concatenate(published)
        bounds = [
            (made["time_ms"], made["time_ms"]) if made else history.batches.bounds(*place, at_ms)
            for place, made, at_ms in zip(places, decisions, published_ms.tolist(), strict=True)
        ]
        return cls(np.concatenate(parts), published_ms, np.array(bounds, np.int64).reshape(-1, 2), decisions, at)

    def orders(self, target: int, time_ms: int) -> Iterator[list[NDArray[np.int64]]]:
        """Orders in which the events may have applied: lists of batches, until the one with the target."""
        earliest, latest = self.batch_ms.T
        either = np.flatnonzero((earliest != latest) & (earliest <= time_ms))[-EITHER_MAX:]
        for choice in product((False, True), repeat=len(either)):
            batch = latest.copy()
            batch[either[list(choice)]] = earliest[either[list(choice)]]
            yield [
                at[apply_order(self.events[at])]
                for at in (np.flatnonzero(batch == one) for one in np.unique(batch[batch <= time_ms]))
            ]
        by_publication = np.lexsort((self.events["offset"], self.events["source"], self.published_ms))
        for order in (by_publication, apply_order(self.events)):
            end = int(np.flatnonzero(order == target)[0]) + 1
            yield list(order[:end, None])


def _replay(decision: Decision, log: _Log, order: list[NDArray[np.int64]], control: ControlLog, max_age_ms: int) -> Why:
    rows, wallet = new_rows(1), Wallet()
    model = control.model(decision["model"])
    n_events = 0
    for read in order:
        row = np.zeros(len(read), np.int64)
        batch = read[~is_duplicate(log.events[read], row, rows)]
        events = log.events[batch]
        n_events += len(batch)
        wallet.settle(events, row[: len(batch)], rows)
        for turn in turns(events, row[: len(batch)], rows):
            (i,) = batch[turn.at].tolist()
            made = log.decisions[i]
            if made is not None:
                model = _model(control, made, model)
            step = absorb(turn.events, turn.rows)
            score = model.score(step, turn.rows) if model else unscored(turn.rows)
            if made is None or (made is not decision and made["reason"] != "offered"):
                continue
            campaigns = control.campaigns(made) if made["campaign_id"] else None
            if campaigns is None and made is decision:
                version = f"version {made['campaign_version']} of the campaign {made['campaign_id']!r}"
                raise LookupError(f"{version} is not in the topic campaigns any more, or no campaign decided")
            if campaigns is None:
                continue  # an earlier offer: what it changed in the row is missing, and shows if it matters
            again = _decide(made, turn.events, turn.rows, score, campaigns, wallet, max_age_ms)
            if made is decision:
                again.told["row_seq"], again.told["step"] = int(turn.rows["seq"][0]), step.tobytes().hex()
                return Why(decision, again, _differences(decision, again), n_events)
            if again.told["reason"] == "offered" and again.campaign is not None and again.campaign.budget is not None:
                turn.rows["open_offer"] = offer_key(xxh3_64_intdigest(made["decision_id"].encode()))
    nothing = Made({}, None, [], [])
    return Why(decision, nothing, ["the trigger was not applied: a duplicate of an earlier event?"], n_events)


def _model(control: ControlLog, made: Decision, before: Model | None) -> Model | None:
    """The model of an earlier decision; where it is gone, the hidden state is rebuilt from the steps anyway."""
    try:
        return control.model(made["model"])
    except LookupError:
        return before


def _differences(decision: Decision, again: Made) -> list[str]:
    return [
        f"{name}: recorded {decision[name]!r}, now {again.told[name]!r}"
        for name in (*COMPARED, "row_seq", "step")
        if (list(decision[name]) if name == "eligible" else decision[name]) != again.told[name]
    ]


def _decide(
    made: Decision, events: Events, rows: Rows, score: NDArray[np.float32], campaigns: CampaignSet, wallet: Wallet,
    max_age_ms: int,
) -> Made:  # fmt: skip
    """Decide again; the row and the wallet change as they did.

    What a budget, or a bound of parity, had left then is in no record. So there is plenty, but for the campaign that
    was recorded to have had too little; and a campaign with one that would have come first and did not, is left out: it
    had none.
    """
    before = rows.copy()
    _fill(wallet, campaigns, made)
    left_out: set[str] = set()
    while True:
        asked = CampaignSet(
            [c for c in campaigns.campaigns if c.id not in left_out], campaigns.segment_rules, campaigns.zone
        )
        rows[:] = before
        (one,) = _ask(made, events, rows, score, asked, wallet, max_age_ms)
        campaign = asked.campaigns[one["campaign"]] if one["campaign"] >= 0 else None
        if campaign is None or campaign.id == made["campaign_id"] or not _bounded(campaign):
            break
        left_out.add(campaign.id)
    arms = campaign.arms if campaign else ()
    told = {
        "campaign_id": campaign.id if campaign else None,
        "campaign_version": campaign.version if campaign else None,
        "arm": arms[one["arm"]].id if one["arm"] >= 0 else "none",
        "eligible": [arm.id for i, arm in enumerate(arms) if int(one["eligible"]) >> i & 1],
        "holdout": bool(one["holdout"]),
        "reason": Reason(one["reason"]).name.lower(),
        "propensity": float(one["propensity"]),
        "score": None if np.isnan(one["score"]) else float(one["score"]),
        "depth_bp": int(one["depth_bp"]),
        "value_minor": int(one["value_minor"]),
    }
    verdicts = []
    for each in campaigns.campaigns:
        single = CampaignSet([each], campaigns.segment_rules, campaigns.zone)
        (said,) = _ask(made, events, before.copy(), score, single, Wallet.from_state(wallet.state()), max_age_ms)
        bound = "parity" if each.budget is None else "budget"
        reason = "paused" if each.paused else bound if each.id in left_out else Reason(said["reason"]).name.lower()
        verdicts.append({"campaign_id": each.id, "reason": reason})
    values = []
    if campaign is not None:
        triggers = Triggers(events, before, _ONE, made["time_ms"], campaigns.segment_rules)
        values = arm_values(campaign, score[:, 0], triggers, campaigns.today(made["time_ms"]), made["dual_price"])
    return Made(told, campaign, values, verdicts)


def _bounded(campaign: Campaign) -> bool:
    return campaign.budget is not None or campaign.parity is not None


def _fill(wallet: Wallet, campaigns: CampaignSet, made: Decision) -> None:
    for campaign in campaigns.campaigns:
        short = made["reason"] if campaign.id == made["campaign_id"] else ""
        wallet.tallies.pop(campaign.key, None)  # without one nothing is offered
        if campaign.parity is not None and short != "parity":
            wallet.tallies[campaign.key] = Tally(campaign.parity.by)
        if campaign.budget is not None:
            purse = wallet.purses.setdefault(campaign.key, Purse())
            purse.limit_minor = 0 if short == "budget" else _PLENTY_MINOR
            purse.price = made["dual_price"] if campaign.id == made["campaign_id"] else 0.0


def _ask(
    made: Decision, events: Events, rows: Rows, score: NDArray[np.float32], campaigns: CampaignSet, wallet: Wallet,
    max_age_ms: int,
) -> Decisions:  # fmt: skip
    return decide(events, rows, score, campaigns, made["time_ms"], np.array([made["draw"]]), max_age_ms, wallet)
