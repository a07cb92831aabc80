"""The pictures of a report, each a function of what was gathered."""

from collections.abc import Callable

import numpy as np
from matplotlib.ticker import MaxNLocator, PercentFormatter

from stream.core.campaign import Linear
from stream.core.features import FEATURES, dequantise
from stream.core.policies import linear_depth_bp
from training.metrics import auc
from training.report.draw import COLOURS, GREY, canvas, png, styled
from training.report.gather import DRIFT_MAX, Gathered

POLICY = Linear(slope=0.3, intercept=0.05, depth_min=0.05, depth_max=0.30, arm=0)
"""As in docs/examples/campaigns/likely-buyers.yaml."""

_POINTS = 3_000
_NAMES = [feature.name for feature in FEATURES]


@styled
def learning(of: Gathered) -> bytes | None:
    """Loss by epoch, on the training and on the validation users."""
    history = of.metrics.get("history")
    if not history:
        return None
    drawn, (axes,) = canvas(7.5, 3.8)
    epochs = np.arange(1, len(history) + 1)
    for place, (name, words) in enumerate((("loss", "training users"), ("valid_loss", "other users"))):
        axes.plot(epochs, [one[name] for one in history], "o-", markersize=3, color=COLOURS[place], label=words)
    best = of.metrics["best_epoch"]
    axes.axvline(best, color=GREY, linestyle=":", label=f"epochs taken: {best}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="epoch", ylabel="log loss", title="Learning curves")
    axes.legend()
    return png(drawn)


@styled
def ranking(of: Gathered) -> bytes:
    """ROC, and precision over recall."""
    said = of.evaluation
    drawn, (left, right) = canvas(11, 4.6, 1, 2)
    left.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":")
    left.plot(said["curves"]["roc"]["x"], said["curves"]["roc"]["y"], color=COLOURS[0], label=_with(of, "auc"))
    for place, (name, score) in enumerate(of.judged.yardsticks.items()):
        left.plot([], [], color=COLOURS[place + 1], label=f"{name} {auc(of.judged.label, score):.3f}")
        grid = np.quantile(score, np.linspace(1, 0, 60))
        at = [(score[~of.judged.label] >= edge).mean() for edge in grid]
        left.plot(at, [(score[of.judged.label] >= edge).mean() for edge in grid], color=COLOURS[place + 1], linewidth=1)
    left.set(xlabel="share of the others", ylabel="share of those who buy", title="ROC: area under the curve")
    left.legend(loc="lower right")
    right.axhline(said["base_rate"], color=GREY, linewidth=1, linestyle=":", label=f"base rate {said['base_rate']:.3f}")
    curve = said["curves"]["pr"]
    right.plot(curve["x"][1:], curve["y"][1:], color=COLOURS[0], label=_with(of, "pr_auc"))
    right.set(xlabel="recall", ylabel="precision", title="Precision over recall: average precision", ylim=(0, None))
    right.legend()
    return png(drawn)


def _with(of: Gathered, figure: str) -> str:
    one = of.evaluation[figure]
    return f"{of.model.metadata.architecture} {one['value']:.3f} ({one['ci'][0]:.3f} to {one['ci'][1]:.3f})"


@styled
def calibration(of: Gathered) -> bytes:
    """What was said against what came."""
    said = of.evaluation["calibration"]
    drawn, (left, right) = canvas(11, 4.2, 1, 2)
    top = 1.1 * max(*said["score"], *said["rate"])
    left.plot([0, top], [0, top], color=GREY, linewidth=1, linestyle=":")
    left.plot(said["score"], said["rate"], "o-", color=COLOURS[0])
    left.set(
        xlabel="mean score of a tenth",
        ylabel="share that bought",
        title=f"Calibration: error {said['error']:.4f}",
        xlim=(0, top),
        ylim=(0, top),
    )
    edges = np.linspace(0, float(np.quantile(of.judged.score, 0.995)), 40).tolist()
    for place, (kept, words) in enumerate(((~of.judged.label, "did not buy"), (of.judged.label, "bought"))):
        right.hist(of.judged.score[kept], edges, density=True, alpha=0.6, color=COLOURS[place], label=words)
    right.set(xlabel="score", ylabel="density", title="Scores of those who bought, and of the others")
    right.legend()
    return png(drawn)


@styled
def events_seen(of: Gathered) -> bytes:
    """AUC by the number of events of the user seen so far."""
    parts = {first: one for first, one in of.evaluation["by_events_seen"].items() if one.get("auc", {}).get("value")}
    drawn, (axes,) = canvas(7.5, 3.8)
    axes.axhline(0.5, color=GREY, linewidth=1, linestyle=":")
    at = np.arange(len(parts))
    value = np.array([one["auc"]["value"] for one in parts.values()])
    ends = np.array([[np.nan if end is None else end for end in one["auc"]["ci"]] for one in parts.values()])
    error = np.abs(ends.T - value) if parts else None
    axes.errorbar(at, value, yerr=error, fmt="o", color=COLOURS[0], capsize=3)
    axes.set_xticks(at, [f"{first} +\n{one['events']} events" for first, one in parts.items()])
    axes.set(xlabel="events of the user seen so far", ylabel="AUC, 95 %", title="What a history is worth")
    return png(drawn)


@styled
def segments(of: Gathered) -> bytes | None:
    """How large segments are, how many buy, and what the model says."""
    if of.segments is None:
        return None
    number = of.segments.of(of.steps)
    known = sorted(of.segments.names)
    drawn, (left, right) = canvas(12, 0.55 * len(known) + 1.8, 1, 2)
    rows = np.arange(len(known))
    left.barh(rows, [(number == one).mean() for one in known], color=COLOURS[0])
    left.set_yticks(rows, [f"{one}: {of.segments.names[one]}" for one in known])
    left.set(title="Segments: share of the decision points")
    left.xaxis.set_major_formatter(PercentFormatter(1))
    for row, one in enumerate(known):
        here = number == one
        if here.any():
            right.plot(of.judged.label[here].mean(), row, "o", color=COLOURS[0], label="" if row else "bought")
            right.plot(of.judged.score[here].mean(), row, "x", color=COLOURS[1], label="" if row else "mean score")
    right.set_yticks(rows, [str(one) for one in known])
    right.set(title="Who buys within the horizon", ylim=left.get_ylim(), xlim=(0, None))
    right.xaxis.set_major_formatter(PercentFormatter(1, 1))
    handles = [right.plot([], [], mark, color=COLOURS[place])[0] for place, mark in enumerate("ox")]
    right.legend(handles, ["bought", "mean score"])
    for axes in (left, right):
        axes.invert_yaxis()
    return png(drawn)


@styled
def discounts(of: Gathered) -> bytes:
    """Decision points by activity and recency, coloured by the discount that a linear policy would give."""
    shown = np.random.default_rng(0).permutation(len(of.steps))[:_POINTS]
    value = dequantise(of.steps[shown])
    depth = linear_depth_bp(POLICY, of.judged.score[shown].astype(np.float32)) / 100
    rng = np.random.default_rng(0)  # eighths lie on a grid; spread out, points do not hide each other
    x, y = (value[:, _NAMES.index(name)] + rng.uniform(-0.06, 0.06, len(shown)) for name in ("events_1d", "views_7d"))
    drawn, (axes,) = canvas(8.5, 5)
    order = np.argsort(depth)
    points = axes.scatter(x[order], y[order], c=depth[order], s=12, cmap="viridis", linewidths=0, alpha=0.85)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda at, _: f"{2**at - 1:.0f}")
    axes.set(
        xlabel="activity: events in 1 d",
        ylabel="preference: product views in 7 d",
        title=f"Discount by the linear policy {POLICY.slope:g} P + {POLICY.intercept:g}",
    )
    drawn.colorbar(points, ax=axes, label="discount, % off")
    return png(drawn)


@styled
def shapley(of: Gathered) -> bytes | None:
    """Shapley values of feature groups, a point a decision."""
    if of.shapley is None:
        return None
    order = np.argsort(np.abs(of.shapley.values).mean(axis=0))
    drawn, (axes,) = canvas(8.5, 4.4)
    axes.axvline(0, color=GREY, linewidth=1)
    rng = np.random.default_rng(0)
    for row, place in enumerate(order.tolist()):
        points = 100 * of.shapley.values[:, place]
        spread = row + rng.uniform(-0.25, 0.25, len(points))
        axes.scatter(points, spread, s=12, alpha=0.6, color=COLOURS[0], linewidths=0)
        axes.plot([points.mean()], [row], "|", color=COLOURS[1], markersize=16, markeredgewidth=2)
    strength = 100 * np.abs(of.shapley.values).mean(axis=0)
    axes.set_yticks(range(len(order)), [f"{of.shapley.names[at]}  ({strength[at]:.2f})" for at in order.tolist()])
    axes.set(
        xlabel=f"what it adds to P(purchase), percentage points; {len(of.shapley.values)} decision points",
        title="Shapley values by feature group (in brackets: mean strength)",
    )
    return png(drawn)


@styled
def drift(of: Gathered) -> bytes | None:
    """Population stability index by feature."""
    if of.drift is None:
        return None
    order = sorted(of.drift, key=lambda name: of.drift[name] if of.drift else 0)
    drawn, (axes,) = canvas(7.5, 4.4)
    colours = [COLOURS[3] if of.drift[name] > DRIFT_MAX else COLOURS[0] for name in order]
    axes.barh(order, [of.drift[name] for name in order], color=colours)
    axes.axvline(DRIFT_MAX, color=COLOURS[3], linestyle="--", label=f"has moved: above {DRIFT_MAX}")
    axes.set(xlabel="population stability index, training to these events", title="Drift of features and score")
    axes.legend(loc="lower right")
    return png(drawn)


@styled
def champion(of: Gathered) -> bytes | None:
    """Each figure's difference to the champion, and the scores of both."""
    if of.champion is None:
        return None
    drawn, (left, right) = canvas(11, 4.2, 1, 2)
    names = {"auc": "AUC", "pr_auc": "PR-AUC", "log_loss": "log loss", "brier": "Brier score"}
    better = {"auc": 1, "pr_auc": 1, "log_loss": -1, "brier": -1}
    left.axvline(0, color=GREY, linewidth=1)
    for row, name in enumerate(names):
        one = of.champion.difference[name]
        if one["value"] is None or one["ci"][0] is None:
            continue
        low, high = (better[name] * end for end in one["ci"])
        left.plot([low, high], [row, row], color=COLOURS[0], linewidth=3)
        left.plot([better[name] * one["value"]], [row], "o", color=COLOURS[0])
    left.set_yticks(range(len(names)), names.values())
    left.invert_yaxis()
    left.set(xlabel="better than the champion by (right is better), 95 %", title="Against the champion, same users")
    shown = np.random.default_rng(0).permutation(len(of.judged.score))[:_POINTS]
    top = float(max(of.champion.score[shown].max(), of.judged.score[shown].max()))
    right.plot([0, top], [0, top], color=GREY, linewidth=1)
    right.scatter(of.champion.score[shown], of.judged.score[shown], s=6, alpha=0.4, color=COLOURS[0], linewidths=0)
    right.set(xlabel="champion's score", ylabel="this model's", title="The same decision points, scored by both")
    return png(drawn)


PICTURES: dict[str, tuple[str, Callable[[Gathered], bytes | None], str]] = {
    "learning": ("Learning curves", learning, "needs metrics.json of `training run` beside the model"),
    "ranking": ("ROC and precision", ranking, ""),
    "calibration": ("Calibration", calibration, ""),
    "events-seen": ("By events seen", events_seen, ""),
    "segments": ("Segments", segments, "needs --segments FILE, made by `training segments fit`"),
    "discounts": ("Who would get which discount", discounts, ""),
    "shapley": ("What scores are made of", shapley, "needs the extra: pip install '.[explain]'"),
    "drift": ("Drift", drift, "needs a model made by `training run`, which keeps a reference in the file"),
    "champion": ("Against the champion", champion, "needs --champion FILE"),
}
"""By name of the file: heading, what draws it, and what it needs where it draws nothing."""
