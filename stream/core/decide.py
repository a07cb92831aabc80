"""Decisions: for each trigger at most one offer, from the first campaign whose policy chooses one."""

from enum import IntEnum, unique

import numpy as np


@unique
class Reason(IntEnum):
    """Why a decision is what it is; the lower-case name is what is logged. An offer was made where, and only where, it is OFFERED."""

    NOT_TRIGGERED = 0  # no campaign is triggered by this kind of event
    OFFERED = 1
    POLICY_NONE = 2  # the policy chose "none"
    HOLDOUT = 3  # the policy chose an arm, the user is held out
    STALE = 4  # the trigger is older than offer_max_age
    NO_CONSENT = 5
    OBJECTION = 6
    NOT_ELIGIBLE = 7
    COOL_DOWN = 8
    NO_MODEL = 9  # the policy needs a score and there is none
    DRY_RUN = 10  # the policy chose an arm, the campaign only tries


DECISION = np.dtype(
    [
        ("draw", "f8"),  # in [0, 1), hash of the trigger's coordinates
        ("value_minor", "i8"),  # amount and coupon arms: what the offer takes off at most
        ("depth_bp", "i4"),  # percent arms: hundredths of a percent
        ("eligible", "u4"),  # bit i: arm i was eligible ("none" always is)
        ("score", "f4"),  # P(purchase) without an offer; NaN = no model
        ("propensity", "f4"),  # probability of the arm chosen, given everything but the draw
        ("campaign", "i2"),  # index into CampaignSet.campaigns; -1 = none
        ("arm", "i2"),  # index into that campaign's arms; -1 = "none". DRY_RUN: the arm that would have been offered
        ("reason", "u1"),
        ("holdout", "u1"),  # the user is in the campaign's holdout
    ]
)
