"""An explanation in words and as a picture."""

from io import BytesIO
from typing import Any

from stream.core.events import Kind
from stream.core.features import FEATURES, LATE, dequantise
from stream.explain.shapley import EARLIER, Explained, Steps

_NEVER = 255


def step_said(step: Any) -> str:  # noqa: ANN401  uint8 [F]
    """One step: what happened, and what stands out."""
    value = {feature.name: float(x) for feature, x in zip(FEATURES, dequantise(step), strict=True)}
    kind = int(step[0])
    words = [Kind(kind % LATE).name.lower().replace("_", " ") + (" (late)" if kind >= LATE else "")]
    since = "never ordered" if int(step[2]) == _NEVER else f"last order {_ago(2 ** value['since_buy'] - 1)} ago"
    words.append(since)
    for name, text in (
        ("carts_1d", "cart additions today"),
        ("buys_30d", "orders in 30 d"),
        ("events_1h", "events in 1 h"),
    ):
        words.append(f"{2 ** value[name] - 1:.0f} {text}")
    return ", ".join(words)


def _ago(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def groups_said(found: Explained) -> list[str]:
    """Lines: the score, and what each group of features adds, the strongest first; points are percentage points."""
    lines = [f"score {100 * found.score:.2f} %; of somebody unknown it would be {100 * found.base:.2f} %"]
    order = sorted(range(len(found.names)), key=lambda at: -abs(float(found.values[at])))
    lines += [f"  {100 * found.values[at]:+7.2f} points  {found.names[at]}" for at in order]
    return lines


def steps_said(found: Explained, steps: Steps) -> list[str]:
    """Lines: what each earlier step adds, from the newest back."""
    lines = [f"of this event alone the score would be {100 * found.base:.2f} %; events before it add:"]
    for name, value in reversed(list(zip(found.names, found.values, strict=True))):
        what = name if name == EARLIER else f"{name}: {step_said(steps[-1 - int(name.split()[0])])}"
        lines.append(f"  {100 * value:+7.2f} points  {what}")
    return lines


def picture(title: str, groups: Explained, steps: Explained | None) -> bytes:
    """Two water falls, from the base to the score; PNG."""
    from matplotlib.figure import Figure as Canvas  # noqa: PLC0415  takes a second, and only the picture needs it

    parts = [("feature groups, from somebody unknown", groups)]
    if steps is not None:
        parts.append(("earlier events, from this event alone", steps))
    drawn = Canvas(figsize=(7.0 * len(parts), 4.4), layout="constrained")
    drawn.suptitle(title, x=0.01, ha="left", fontweight="bold")
    for axes, (words, found) in zip(drawn.subplots(1, len(parts), squeeze=False)[0], parts, strict=True):
        at = 100 * found.base
        axes.axvline(at, color="#9aa5b1", linewidth=1, linestyle=":")
        order = range(len(found.names))
        if found is groups:
            order = sorted(order, key=lambda place: -abs(float(found.values[place])))  # type: ignore[assignment]
        for row, place in enumerate(order):
            value = 100 * float(found.values[place])
            axes.barh(row, value, left=at, color="#1f6fb4" if value >= 0 else "#d9822b", height=0.65)
            end = max(at, at + value)
            axes.annotate(
                f"{value:+.2f}", (end, row), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8
            )
            at += value
        axes.axvline(100 * found.score, color="#22303c", linewidth=1)
        axes.set_yticks(range(len(found.names)), [found.names[place] for place in order])
        axes.invert_yaxis()
        axes.margins(x=0.15)
        axes.set_xlabel(f"P(purchase), %: {100 * found.base:.2f} to {100 * found.score:.2f}")
        axes.set_title(words, loc="left", fontsize=10)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    buffer = BytesIO()
    drawn.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()
