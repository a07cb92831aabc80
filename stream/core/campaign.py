"""Campaigns as the core sees them: validated and compiled, names resolved, dates in milliseconds, ids hashed.

`stream.campaigns` makes these from documents; `stream.core.decide` reads them. Nothing here is ever changed in place: a
new document makes a new `CampaignSet`, and a batch is decided by one set from beginning to end.
"""

import copy
import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, unique
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream.core.events import N_KINDS
from stream.core.response import Responds
from stream.core.segments import SEGMENT_RULES, SegmentRules

N_ARMS_MAX = 32
"""Arms of one campaign: they are bits of `DECISION["eligible"]`."""

N_CAMPAIGNS_MAX = 1000
"""Campaigns of one set: `decide` loops over them."""


@unique
class ArmKind(IntEnum):
    """What an offer gives. The lower-case name is what documents and offers say."""

    PERCENT = 0
    AMOUNT = 1
    COUPON = 2
    FREE_SHIPPING = 3
    GIFT = 4
    ACTION = 5  # whatever the reader of offers understands: the arm names it


@dataclass(frozen=True, slots=True)
class Arm:
    """One thing that a campaign can offer. Money in minor units of the campaign's currency; 0 = not given."""

    id: str
    kind: ArmKind
    depth_bp: int = 0  # percent: hundredths of a percent; 0 = the policy says it each time
    value_minor: int = 0  # coupon: its worth; amount: what the highest tier takes off
    tiers: tuple[tuple[int, int], ...] = ()  # amount: (min_spend_minor, off_minor), ascending
    min_spend_minor: int = 0
    max_discount_minor: int = 0  # percent: takes off at most this
    gift: str = ""  # gift: the product's id
    action: str = ""  # action: its name
    terms: tuple[tuple[str, int | str], ...] = ()  # action: what its reader has to know, (name, value)
    cost_minor: int = 0  # free shipping, gift, action: what it costs

    @property
    def cost_max_minor(self) -> int:
        """The most that one offer of it can cost; 0 = no bound is given."""
        if self.kind == ArmKind.PERCENT:
            return self.max_discount_minor
        return self.value_minor or self.cost_minor


@dataclass(frozen=True, slots=True)
class Threshold:
    """The arm where the score is above `probability`."""

    probability: float
    arm: int


@dataclass(frozen=True, slots=True)
class Frequency:
    """The arm where more than `more_than` orders were placed in the rolling window."""

    window: str
    more_than: int
    arm: int


@dataclass(frozen=True, slots=True)
class Linear:
    """A depth of `slope` x score + `intercept`, clipped to a range (shares, not percent); depth 0 is "none"."""

    slope: float
    intercept: float
    depth_min: float
    depth_max: float
    arm: int


@dataclass(frozen=True, slots=True)
class BySegment:
    """A fixed arm for each segment (index: `Segment`); -1 = "none"."""

    arms: tuple[int, ...]


@unique
class Occasion(IntEnum):
    """What the calendar policy looks at. The lower-case name is what documents say."""

    BIRTHDAY = 0
    REGISTRATION = 1  # the day, each year, on which the user registered
    DATES = 2


@dataclass(frozen=True, slots=True)
class Calendar:
    """The arm from `days_before` to `days_after` an occasion, in days of the shop."""

    occasion: Occasion
    dates: frozenset[tuple[int, int, int]]  # (year, month, day); 0 = every
    days_before: int
    days_after: int
    arm: int


@dataclass(frozen=True, slots=True)
class Explore:
    """Each arm, "none" included, with the same probability."""


@unique
class Objective(IntEnum):
    """What the profit policy wants more of. The lower-case name is what documents say."""

    MARGIN = 0
    REVENUE = 1
    ORDERS = 2


@dataclass(frozen=True, slots=True)
class Profit:
    """The arm that gains most, less the price of the budget it takes; "none" where none gains."""

    response: Responds | None  # what was learned of how users respond; None = nothing yet
    objective: Objective
    margin_rate: float  # of a basket, before discount


Policy = Threshold | Frequency | Linear | BySegment | Calendar | Explore | Profit


@dataclass(frozen=True, slots=True)
class Budget:
    """Money that a campaign may cost."""

    total_minor: int
    paced: bool  # spread evenly from the campaign's `from` to its `until`


@dataclass(frozen=True, slots=True)
class Parity:
    """How alike groups of users have to be in how often they get offers; see `stream.core.parity`."""

    by: str  # one of GROUPS there
    ratio_min: float  # of the lowest rate to any other


@dataclass(frozen=True, slots=True)
class Guard:
    """How many offers a user may have used: `free`, and `per_order` for each order at full price that was kept."""

    free: int
    per_order: float


class Silence(NamedTuple):
    """How long nothing is to come from a user; see `stream.core.silence`."""

    after_ms: int
    repeat_ms: int  # and then again every so long, while nothing comes; 0 = once


@dataclass(frozen=True, slots=True)
class Condition:
    """Compares one fact (`stream.core.facts`) with a value; a fact that is not known fails every condition."""

    fact: str
    op: str  # one of OPS
    values: tuple[float, ...]  # one, but for "in" and "not_in"


OPS = ("<", "<=", ">", ">=", "==", "!=", "in", "not_in")


@dataclass(frozen=True, eq=False)
class Campaign:
    """One compiled campaign."""

    id: str
    version: int
    name: str
    priority: int
    paused: bool
    dry_run: bool
    from_ms: int  # decides where from_ms <= now < until_ms
    until_ms: int
    kinds: NDArray[np.bool_]  # [N_KINDS + 1]: kinds of trigger, SILENCE among them
    segments: NDArray[np.bool_] | None  # [Segment]; None = all
    products: NDArray[np.uint32] | None  # of the trigger, ascending; None = all
    categories: NDArray[np.uint32] | None
    brands: NDArray[np.uint32] | None
    conditions: tuple[Condition, ...]
    arms: tuple[Arm, ...]
    policy: Policy
    after_offer_ms: int
    after_redemption_ms: int
    holdout: float  # share of users
    salt: int  # of the holdout, from the id: a new version keeps the groups
    valid_for_ms: int
    stacking_group: str
    currency: str  # "" where no arm speaks of money
    disclosure: bool  # the offer says that its price was personalised
    caps: tuple[
        tuple[int, int], ...
    ] = ()  # (days, offers): at most so many in so many days of the shop, today included
    exploration: float = 0.0  # share of decisions that are drawn from all arms alike
    margin_rate: float = 0.0  # of the price, before discount; 0 = not said
    budget: Budget | None = None
    parity: Parity | None = None
    guard: Guard | None = None
    scope: Mapping[str, tuple[str, ...]] | None = None  # what an offer applies to; None = the whole order
    silence: Silence | None = None  # what triggers, where kinds[SILENCE]

    @cached_property
    def percent_arms(self) -> NDArray[np.bool_]:
        """[arms + 1]: which arms take off a percentage; index -1, none, does not."""
        return np.array([*(arm.kind == ArmKind.PERCENT for arm in self.arms), False])

    @property
    def key(self) -> int:
        """The campaign in rows: the low 32 bits of its salt, never 0."""
        return self.salt & 0xFFFFFFFF or 1


class Today(NamedTuple):
    """A day of the shop."""

    date: dt.date
    day: int  # since 1970-01-01
    begins_ms: int
    ends_ms: int


class CampaignSet:
    """The campaigns in force, in the order in which they are asked: live before dry runs, then by priority, then by id.

    Attributes:
        campaigns: all, paused ones too; `DECISION["campaign"]` is an index into it.
        asked: (index, campaign) of those not paused that an event can trigger.
        triggers: bool [N_KINDS + 1], kinds that trigger any of these.
        silences: the others by what they wait for, longest first, each with a set that asks those alone.
        depths_bp: int64 [campaigns + 1, arms + 1], of each arm; index -1, none, gives 0.
        values_minor: the same, of the arms' values.
        arm_bits: int64 [campaigns + 1], a bit for each arm.
        segment_rules: what makes a user new, frequent or dormant.
        zone: the shop's: its days.
        budgeted: any campaign has something that a partition's `Wallet` keeps: a budget, or a bound of parity.
    """

    def __init__(
        self,
        campaigns: Sequence[Campaign] = (),
        segment_rules: SegmentRules = SEGMENT_RULES,
        zone: dt.tzinfo = dt.UTC,
    ) -> None:
        self.campaigns = tuple(sorted(campaigns, key=lambda c: (c.dry_run, c.priority, c.id)))
        running = tuple((i, c) for i, c in enumerate(self.campaigns) if not c.paused)
        self._ask(tuple((i, c) for i, c in running if c.silence is None))
        shape = (len(self.campaigns) + 1, max((len(c.arms) for c in self.campaigns), default=0) + 1)
        self.depths_bp, self.values_minor = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        self.arm_bits = np.array([*((1 << len(c.arms)) - 1 for c in self.campaigns), 0])
        for i, campaign in enumerate(self.campaigns):
            self.depths_bp[i, : len(campaign.arms)] = [arm.depth_bp for arm in campaign.arms]
            self.values_minor[i, : len(campaign.arms)] = [arm.value_minor for arm in campaign.arms]
        self.segment_rules = segment_rules
        self.budgeted = any(c.budget is not None or c.parity is not None for c in self.campaigns)
        self.zone = zone
        self._today = Today(dt.date.min, 0, 0, 0)
        rules = sorted({c.silence for _, c in running if c.silence is not None}, reverse=True)
        self.silences = tuple(
            (rule, self._asking(tuple((i, c) for i, c in running if c.silence == rule))) for rule in rules
        )

    def _ask(self, asked: tuple[tuple[int, Campaign], ...]) -> None:
        self.asked = asked
        self.triggers = np.zeros(N_KINDS + 1, bool)
        for _, campaign in asked:
            self.triggers |= campaign.kinds

    def _asking(self, asked: tuple[tuple[int, Campaign], ...]) -> "CampaignSet":
        some = copy.copy(self)
        some._ask(asked)  # noqa: SLF001 its own kind
        return some

    def today(self, now_ms: int) -> Today:
        """The day of the shop at that time."""
        today = self._today
        if not today.begins_ms <= now_ms < today.ends_ms:
            date = dt.datetime.fromtimestamp(now_ms / 1000, self.zone).date()
            day = date.toordinal() - _EPOCH
            begins, ends = (dt.datetime(d.year, d.month, d.day, tzinfo=self.zone) for d in (date, date + _ONE_DAY))
            self._today = today = Today(date, day, int(begins.timestamp()) * 1000, int(ends.timestamp()) * 1000)
        return today


_EPOCH = dt.date(1970, 1, 1).toordinal()
_ONE_DAY = dt.timedelta(days=1)
