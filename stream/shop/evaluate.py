"""What policies earn in the simulated shop, on the stream's own code: one shop (`stream.shop.evaluate_cli` runs ten).

    history      customers come and go, nobody gets an offer
    learning     a share of the customers is drawn each day, and for each of them an arm, or none
    judged       each policy from the same moment on, over the same days, with the same budget

What is learned is learned from the decisions of the learning period, their logged propensities, and the orders that
followed: facts of rows and columns of events. `stream.campaigns.learn` imports nothing of the shop, and the truth
(`stream.shop.truth`) is handed to the oracle only. What a policy earned is the ledger's: margin of orders that offers
caused, less what offers took off orders that would have been placed anyway, returns and cancellations counted.
"""

import gc
import time
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream.campaigns.control import Shop as Compiled
from stream.campaigns.control import compile_document
from stream.campaigns.learn import BASKET_FEATURES, FEATURES, Records, facts_of, fit
from stream.campaigns.validate import validate
from stream.core.absorb import Events
from stream.core.campaign import CampaignSet
from stream.core.decide import Reason
from stream.core.events import Kind
from stream.core.features import dequantise
from stream.core.policies import NONE
from stream.core.response import Asked, Forecast, Responds, Response, sigmoid
from stream.core.row import DAY_MS, Rows
from stream.kafka.control import InForce
from stream.scoring.scorer import Scored, Scorer
from stream.shop.earned import ROWS, Earned, forked
from stream.shop.judged import HISTORY_STEP_MS, Run
from stream.shop.reachable import Reachable
from stream.shop.truth import Oracle, observed
from stream.topology import Outcome

START_MS = 1_790_035_200_000  # 2026-09-22, a midnight
HORIZON_MS = 30 * 60_000
HISTORY_DAYS, LEARNING_DAYS, JUDGED_DAYS = 5, 14, 5
EXPLORATION_LEARNING = 0.75
DEPTHS = (5, 10, 20)
DISCOUNT_MAX_MINOR = 60_000
BUDGET_SHARE = 0.12
"""Of what everybody's 10 % costs in the learning period's days, as forecast from the offers made then."""
MARGIN_RATE = 0.3
STEP_SAMPLE = 8  # of so many events one is learned from for P(purchase)
REFERENCE_SHOPS = (9_001, 9_002)
"""Seeds of the shops in which it is fitted."""
POLICIES = ("none", "everybody", "random", "propensity", "threshold", "frequency", "linear", "profit", "oracle")

LEARNED_FACTS = facts_of(FEATURES + BASKET_FEATURES)


class Probe:
    """Answers "no uplift" and notes the facts at each trigger: what a replay of the log would find."""

    def __init__(self) -> None:
        self.noted: list[tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.float64]]] = []

    def forecast(self, triggers: Asked, at: NDArray[np.int64]) -> Forecast:
        """As `stream.core.response.Responds`."""
        facts = np.stack([triggers.fact(name)[at] for name in LEARNED_FACTS], axis=1)
        self.noted.append((triggers.event("user")[at], triggers.event("offset")[at], facts))
        zero = np.zeros(len(at))
        return Forecast(zero + 1, zero, zero, 1.0, 1.0, 0.0)


class Propensity:
    """P(purchase within the horizon) from the step alone: in the place of the network, learned in a second."""

    def __init__(self, weights: NDArray[np.float64]) -> None:
        self._weights = weights

    def score(self, steps: NDArray[np.uint8], users: NDArray[np.uint64], rows: Rows) -> Scored:
        """As `stream.scoring.scorer.Scorer`."""
        del users, rows
        x = (_step_features(steps) * self._weights[1:]).sum(axis=1) + self._weights[0]
        return Scored(sigmoid(x).astype(np.float32)[:, None], np.zeros(len(steps), np.uint64))


def _step_features(steps: NDArray[np.uint8]) -> NDArray[np.float64]:
    x = dequantise(steps).astype(np.float64)
    kinds = x[:, :1] == np.arange(9)
    return np.hstack([kinds, x[:, 1:] / 10])


class Learned(NamedTuple):
    """What the learning period gave."""

    response: Response
    model: Propensity
    thresholds: tuple[float, float]
    """Scores above which a fifth, and a tenth, of the triggers lie."""
    budget_minor: int
    decisions: int


def document(
    policy: dict[str, Any], budget_minor: int, begin_ms: int, days: int, fields: dict[str, Any]
) -> dict[str, Any]:
    """A campaign; all of them differ in the policy alone."""
    most = min(DISCOUNT_MAX_MINOR, budget_minor or DISCOUNT_MAX_MINOR)
    made = {
        "id": "judged",
        "name": "Judged",
        "version": 1,
        "trigger": {"kinds": ["product_view", "cart_add", "favourite"]},
        "arms": [{"id": f"off{d}", "kind": "percent", "percent": d, "max_discount_minor": most} for d in DEPTHS],
        "policy": policy,
        "cool_down": {"after_offer": "20h"},
        "valid_for": f"{HORIZON_MS // 60_000}m",
        "currency": "EUR",
        "margin_rate": MARGIN_RATE,
        "from": _date(begin_ms),
        "until": _date(begin_ms + days * DAY_MS),
        **fields,
    }
    if budget_minor:
        made["budget"] = {"total_minor": budget_minor}
    return made


def _date(time_ms: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(time_ms / 1000))


def compiled(made: dict[str, Any], response: Responds | None = None) -> CampaignSet:
    """The set of one campaign.

    Raises:
        ValueError: the document is not valid.
    """
    problems = validate(made, "EUR")
    if problems:
        raise ValueError("; ".join(map(str, problems)))
    return CampaignSet([compile_document(made, Compiled("UTC", "EUR"), response)])


class _Log:
    """Decisions and orders of the learning period, as topics would hold them."""

    def __init__(self) -> None:
        self.first: dict[tuple[int, int], tuple[int, int, int, float]] = {}  # (user, day) -> time, offset, arm, p
        self.orders: dict[int, list[tuple[int, int, int, int]]] = {}  # user -> time, price, discount, offer
        self.steps: list[tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.uint8]]] = []

    def seen(self, events: Events, outcome: Outcome, now_ms: int) -> None:
        """Note a step of time."""
        decisions = outcome.decisions
        some = np.flatnonzero((outcome.row_seqs > 0) & (events["offset"] % STEP_SAMPLE == 0))
        self.steps.append((events["user"][some], events["time_ms"][some], outcome.steps[some]))
        for i in np.flatnonzero(decisions["eligible"] != 0).tolist():
            user = int(events["user"][i])
            key = user, (now_ms - 1) // DAY_MS
            if key not in self.first:
                self.first[key] = (
                    now_ms, int(events["offset"][i]), int(decisions["arm"][i]), float(decisions["propensity"][i])
                )  # fmt: skip
        for i in np.flatnonzero(events["kind"] == Kind.ORDER_PLACED).tolist():
            event = events[i]
            self.orders.setdefault(int(event["user"]), []).append(
                (int(event["time_ms"]), int(event["price_minor"]), int(event["discount_minor"]), int(event["offer"]))
            )


def learn(seen: _Log, probe: Probe) -> Learned:
    """Make of the learning period's log what the policies need."""
    facts_at: dict[tuple[int, int], NDArray[np.float64]] = {}
    wanted = {(user, offset) for (user, _), (_, offset, _, _) in seen.first.items()}
    for users, offsets, facts in probe.noted:
        for i, key in enumerate(zip(users.tolist(), offsets.tolist(), strict=True)):
            if key in wanted:
                facts_at[key] = facts[i]
    kept = [(user, *what) for (user, _), what in seen.first.items() if (user, what[1]) in facts_at]
    n = len(kept)
    bought, redeemed, basket = np.zeros(n, bool), np.zeros(n, bool), np.zeros(n)
    for i, (user, time_ms, _, _, _) in enumerate(kept):
        for ordered_ms, price, _, offer in seen.orders.get(user, ()):
            if time_ms < ordered_ms <= time_ms + HORIZON_MS:
                bought[i], basket[i] = True, price
                redeemed[i] |= offer != 0
    records = Records(
        np.stack([facts_at[k[0], k[2]] for k in kept]),
        np.array([DEPTHS[k[3]] / 100 if k[3] != NONE else 0.0 for k in kept]),
        np.array([k[4] for k in kept]),
        bought,
        redeemed,
        basket,
    )
    response = fit(FEATURES, BASKET_FEATURES, records, HORIZON_MS)
    model, scores = _propensity(seen)
    fifth, tenth = np.quantile(scores, [0.8, 0.9])
    # What 10 % for everybody takes off a day: of those who got 10 % the mean, times all who could have got it.
    ten = records.depth == 0.1
    days = LEARNING_DAYS
    cost = (basket * 0.1 * redeemed)[ten].mean() * n / days
    return Learned(response, model, (float(fifth), float(tenth)), int(cost * JUDGED_DAYS * BUDGET_SHARE), n)


def _propensity(seen: _Log) -> tuple[Propensity, NDArray[np.float64]]:
    rows = seen.steps
    users = np.concatenate([r[0] for r in rows])
    times = np.concatenate([r[1] for r in rows])
    x = _step_features(np.concatenate([r[2] for r in rows]))
    y = np.array(
        [
            any(t < o[0] <= t + HORIZON_MS for o in seen.orders.get(u, ()))
            for u, t in zip(users.tolist(), times.tolist(), strict=True)
        ],
        float,
    )
    design = np.hstack([np.ones((len(x), 1)), x])
    weights = np.zeros(design.shape[1])
    for _ in range(12):
        p = sigmoid(design @ weights)
        gradient = design.T @ (p - y) + weights
        curvature = (design * (p * (1 - p))[:, None]).T @ design + np.eye(len(weights))
        weights -= np.linalg.solve(curvature, gradient)
    return Propensity(weights), sigmoid(design @ weights)


def told_of(seed: int, customers: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Facts at triggers of the later learning period of one shop, and the types of their customers."""
    run, probe, _ = explore(seed, customers)
    place = {user: i for i, user in enumerate(run.user_hashes.tolist())}
    noted = probe.noted[len(probe.noted) // 2 :: 3]
    users = [place[user] for users, _, _ in noted for user in users.tolist()]
    return np.concatenate([facts for _, _, facts in noted]), run.shop.population.type[users]


def campaigns_of(name: str, learned: Learned, truth: "Truth", begin_ms: int, days: int) -> CampaignSet:
    """The campaign that is judged under a name."""
    if name == "none":
        return CampaignSet()
    fifth, tenth = learned.thresholds
    slope = 0.2 / max(tenth, 1e-3)
    depth = [{"id": "depth", "kind": "percent", "max_discount_minor": min(DISCOUNT_MAX_MINOR, learned.budget_minor)}]
    everybody = dict.fromkeys(("new", "frequent", "dormant", "regular"), "off10")
    policies: dict[str, dict[str, Any]] = {
        "everybody": {"kind": "segment", "arms": everybody},
        "random": {"kind": "explore"},
        "propensity": {"kind": "threshold", "probability": tenth, "arm": "off10"},
        "threshold": {"kind": "threshold", "probability": fifth, "arm": "off10"},
        "frequency": {"kind": "frequency", "window": "30d", "more_than": 3, "arm": "off20"},
        "linear": {"kind": "linear", "a": slope, "b": 0.0, "min": 0.0, "max": 0.2, "arm": "depth"},
        "profit": {"kind": "profit"},
        "oracle": {"kind": "profit"},
        ROWS: {"kind": "profit"},
    }
    fields: dict[str, dict[str, Any]] = {"linear": {"arms": depth}}
    responses: dict[str, Responds] = {"profit": learned.response, "oracle": truth.oracle, ROWS: truth.rows}
    budget = 0 if name == "everybody" else learned.budget_minor
    made = document(policies[name], budget, begin_ms, days, fields.get(name, {}))
    return compiled(made, responses.get(name))


class Truth(NamedTuple):
    """What only the simulation knows, whole, and as far as rows tell it."""

    oracle: Oracle
    rows: Reachable


def judge(run: Run, name: str, learned: Learned, truth: Truth, days: int, shifts: float = 0.0) -> Earned:
    """Let one policy run for some days, and its last offers end.

    Args:
        run: the shop, at the end of the learning period.
        name: of the policy.
        learned: what the learning period gave.
        truth: for the oracle, and to judge.
        days: how many.
        shifts: share of the customers who become like others half-way.
    """
    ledger = run.shop.ledger
    before = ledger.caused_minor, ledger.discount_minor, _counts(run)
    run.wallet.purses.clear()
    begin_ms = run.now_ms
    scorer: Any = learned.model  # it scores; a network would, too
    in_force = InForce(scorer, campaigns_of(name, learned, truth, begin_ms, days))
    step = run.step_ms
    expected = 0.0

    def seen(events: Events, outcome: Outcome, _: int) -> None:
        nonlocal expected
        which = np.flatnonzero(outcome.decisions["reason"] == Reason.OFFERED)
        if len(which):
            expected += truth.oracle.earns_minor(events[which], outcome.decisions["depth_bp"][which] / 10_000)

    if shifts:
        run.until(begin_ms + days * DAY_MS // 2, in_force, seen, step)
        run.shop.population.shift(shifts)
    run.until(begin_ms + days * DAY_MS, in_force, seen, step)
    run.until(run.now_ms + HORIZON_MS + step, InForce(Scorer(), CampaignSet()), _nothing, step)
    offers, redeemed = (now - then for now, then in zip(_counts(run), before[2], strict=True))
    price = max((purse.price for purse in run.wallet.purses.values()), default=0.0)
    return Earned(ledger.caused_minor - before[0], ledger.discount_minor - before[1], offers, redeemed, price, expected)


def _nothing(*_: object) -> None:
    pass


def _counts(run: Run) -> tuple[int, int]:
    campaigns = run.shop.coupons.campaigns.values()
    return sum(c.offers for c in campaigns), sum(c.redeemed for c in campaigns)


def prepare(seed: int, customers: int) -> tuple[Run, Learned, Earned]:
    """History and learning period of one shop; what the learning period cost."""
    run, probe, seen = explore(seed, customers)
    ledger, (offers, redeemed) = run.shop.ledger, _counts(run)
    return run, learn(seen, probe), Earned(ledger.caused_minor, ledger.discount_minor, offers, redeemed, 0.0)


def explore(seed: int, customers: int) -> tuple[Run, Probe, _Log]:
    """History and learning period of one shop."""
    run = Run(seed, customers, START_MS)
    run.until(START_MS + HISTORY_DAYS * DAY_MS, InForce(Scorer(), CampaignSet()), _nothing, HISTORY_STEP_MS)
    probe, seen = Probe(), _Log()
    explored = document({"kind": "profit"}, 0, run.now_ms, LEARNING_DAYS, {"exploration": EXPLORATION_LEARNING})
    in_force = InForce(Scorer(), compiled(explored, probe))
    run.until(run.now_ms + LEARNING_DAYS * DAY_MS, in_force, seen.seen, run.step_ms)
    return run, probe, seen


def one_seed(
    seed: int,
    customers: int,
    names: tuple[str, ...],
    told: tuple[NDArray[np.float64], NDArray[np.int64]],
    shifts: float = 0.0,
) -> dict[str, Any]:
    """All policies in one shop; `told` is what `told_of` says of other shops, `shifts` as `judge` takes it."""
    began_s = time.monotonic()
    run, learned, cost = prepare(seed, customers)
    habits = observed(seed + 10_000, customers, 6, HORIZON_MS, run.step_ms)
    oracle = Oracle(run.shop.population, run.user_hashes, habits)
    truth = Truth(oracle, Reachable(LEARNED_FACTS, *told, oracle))
    gc.freeze()  # what the copies share stays shared
    earned = {name: forked(partial(judge, run, name, learned, truth, JUDGED_DAYS, shifts)) for name in (*names, ROWS)}
    # What still came back of orders of the learning period is not this period's.
    nothing = earned["none"]
    earned = {
        name: e._replace(
            margin_minor=e.margin_minor - nothing.margin_minor, spent_minor=e.spent_minor - nothing.spent_minor
        )
        for name, e in earned.items()
    }
    return {
        "seed": seed,
        "budget_minor": learned.budget_minor,
        "decisions_learned_from": learned.decisions,
        "learning": cost,
        "policies": earned,
        "seconds": time.monotonic() - began_s,
    }
