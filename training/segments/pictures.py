"""The picture of segments: where users stand, and what sets each segment apart."""

import numpy as np
from sklearn.decomposition import PCA

from training.report.draw import COLOURS, GREY, canvas, png, styled
from training.segments.clusters import scaled
from training.segments.make import Made
from training.segments.sample import USED

_POINTS = 4_000


@styled
def picture(made: Made) -> bytes:
    """Steps in two principal components, and the centres as a heat map; PNG."""
    x = made.sample.used()
    z = scaled(x)
    found = PCA(2, random_state=0).fit(z)
    shown = np.random.default_rng(0).permutation(len(z))[:_POINTS]
    at = found.transform(z[shown])
    label = made.clusters.label[shown]
    order = np.argsort(made.named.number)
    drawn, (left, right) = canvas(13.5, 5.2, 1, 2)
    if (label < 0).any():
        left.scatter(at[label < 0, 0], at[label < 0, 1], s=5, color=GREY, linewidths=0, label="noise")
    for place, group in enumerate(order.tolist()):
        of = label == group
        left.scatter(at[of, 0], at[of, 1], s=7, alpha=0.6, linewidths=0, color=COLOURS[place % len(COLOURS)])
        middle = at[of].mean(axis=0) if of.any() else np.zeros(2)
        left.annotate(
            str(made.named.number[group]),
            (float(middle[0]), float(middle[1])),
            ha="center",
            va="center",
            fontsize=12,
            fontweight="bold",
            bbox={"boxstyle": "circle,pad=0.25", "fc": "white", "ec": COLOURS[place % len(COLOURS)], "lw": 1.5},
        )
    share = 100 * found.explained_variance_ratio_
    left.set(
        xlabel=f"first principal component, {share[0]:.0f} % of the variance",
        ylabel=f"second, {share[1]:.0f} %",
        title=f"{len(order)} segments, silhouette {made.figures['silhouette']:.2f}",
    )
    centres = np.stack([z[made.clusters.label == group].mean(axis=0) for group in order.tolist()])
    right.grid(visible=False)
    shades = right.imshow(centres, cmap="RdBu_r", vmin=-2, vmax=2, aspect="auto")
    sizes = [100 * float((made.clusters.label == group).mean()) for group in order.tolist()]
    names = [
        f"{made.named.number[group]}: {made.named.name[group]}\n{size:.0f} % of the steps"
        for group, size in zip(order.tolist(), sizes, strict=True)
    ]
    right.set_yticks(range(len(names)), names)
    right.set_xticks(range(len(USED)), USED, rotation=40, ha="right")
    for row, values in enumerate(centres):
        for column, value in enumerate(values):
            colour = "white" if abs(value) > 1.2 else "black"
            right.text(column, row, f"{value:+.1f}", ha="center", va="center", fontsize=8, color=colour)
    right.set_title("What sets them apart: centres, in deviations from the mean")
    drawn.colorbar(shades, ax=right, shrink=0.8)
    return png(drawn)
