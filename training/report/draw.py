"""Pictures: one look for all of them, and figures as PNG bytes. matplotlib takes a second, so this is imported late."""

from io import BytesIO
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

INK, GREY = "#22303c", "#9aa5b1"
COLOURS = ("#1f6fb4", "#d9822b", "#3a9a5b", "#b4462f", "#7a5aa6", "#6b7785", "#c25b8e", "#8a7a2f", "#2fa6a6", "#555555")
"""Told apart in the commonest kinds of colour blindness as far as their order goes: blue and orange come first."""

_STYLE: dict[Any, Any] = {
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "font.size": 9.5,
    "grid.alpha": 0.35,
    "legend.frameon": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}

styled = mpl.rc_context(_STYLE)
"""Decorates whatever draws: matplotlib looks up its style at each call, not once a figure."""


def canvas(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Canvas, list[Axes]]:
    """An empty figure in inches, and its axes in reading order."""
    drawn = Canvas(figsize=(width, height), layout="constrained")
    axes = drawn.subplots(rows, columns, squeeze=False)
    return drawn, list(axes.ravel())


def png(drawn: Canvas) -> bytes:
    """The figure as a PNG: the same figure, the same bytes."""
    buffer = BytesIO()
    drawn.savefig(buffer, format="png", dpi=120, metadata={"Software": ""})
    return buffer.getvalue()
