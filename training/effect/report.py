"""What the discounts earned, campaign by campaign: figures and a picture of them."""

from io import BytesIO
from typing import Any

import numpy as np

from training.effect.compare import difference
from training.effect.outcomes import Exposed
from training.records import Redemption

OUTCOMES = ("conversion", "orders", "revenue", "margin", "rating", "complaints")


def effects(
    users: list[Exposed], redemptions: list[Redemption], offers_of: dict[str, str], relevant: float
) -> dict[str, Any]:
    """All campaigns, ready to be written as JSON. Money in minor units, a user, unless it says total.

    Args:
        users: of each campaign.
        redemptions: of any offer.
        offers_of: campaign by offer id.
        relevant: see `difference`.
    """
    redeemed: dict[str, list[int]] = {}
    for one in redemptions:
        campaign = offers_of.get(one.offer_id)
        if one.kind == "redeemed" and campaign is not None:
            redeemed.setdefault(campaign, []).append(one.amount_minor or 0)
    return {of.campaign: _campaign(of, redeemed.get(of.campaign, []), relevant) for of in users}


def _campaign(of: Exposed, redeemed: list[int], relevant: float) -> dict[str, Any]:
    offered = int(of.offered.sum())
    measured = {name: difference(of, name, relevant) for name in OUTCOMES}
    no_margin = int((~np.isfinite(of.outcomes["margin"])).sum())
    totals = {
        name: {
            "value": figure["value"] and figure["value"] * offered,
            "ci": [end and end * offered for end in figure["ci"]],
        }
        for name in ("orders", "revenue", "margin")
        for figure in [measured[name].said()]
    }
    return {
        "users": {"offered": offered, "held_out": len(of.offered) - offered, "too_recent": of.users_too_recent},
        "redeemed": len(redeemed),
        "discount_minor": sum(redeemed),
        "effect": {name: one.said() for name, one in measured.items()},
        "total": totals,
        "users_without_margin": no_margin,
    }


def picture(said: dict[str, Any]) -> bytes:
    """The differences with their intervals, as a share of the held-out mean, PNG."""
    import matplotlib as mpl  # noqa: PLC0415  takes a second, and only the picture needs it
    from matplotlib.figure import Figure as Canvas  # noqa: PLC0415

    bars = [
        (f"{campaign}: {name}", one)
        for campaign, of in said.items()
        for name, one in of["effect"].items()
        if one["value"] is not None and one["held_out_mean"]
    ]
    with mpl.rc_context({"svg.hashsalt": "offerstream"}):
        canvas = Canvas(figsize=(9, 1.2 + 0.35 * max(len(bars), 1)), layout="constrained")
        axes = canvas.subplots()
        for place, (_, one) in enumerate(bars):
            scale = 100 / abs(one["held_out_mean"])
            low, high = (end * scale for end in one["ci"])
            colour = "tab:green" if low > 0 else "tab:red" if high < 0 else "tab:gray"
            axes.plot([low, high], [place, place], color=colour, linewidth=3)
            axes.plot([one["value"] * scale], [place], "o", color=colour)
        axes.axvline(0, color="black", linewidth=1)
        axes.set_yticks(range(len(bars)), [name for name, _ in bars])
        axes.invert_yaxis()
        axes.set_xlabel("offered against held out, % of the held-out mean, 95 % intervals")
        buffer = BytesIO()
        canvas.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()
