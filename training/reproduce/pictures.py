"""Pictures of the two reproductions."""

import numpy as np

from stream.core.campaign import Linear
from stream.core.policies import linear_depth_bp
from training.report.draw import COLOURS, GREY, canvas, png, styled
from training.reproduce import logistic, lstm

POLICY = Linear(slope=0.3, intercept=0.05, depth_min=0.05, depth_max=0.30, arm=0)
"""As in docs/examples/campaigns/likely-buyers.yaml."""


@styled
def lstm_picture(found: lstm.Reproduced) -> bytes:
    """Loss by epoch, and what was said against what is so; PNG."""
    drawn, (left, right) = canvas(10, 4, 1, 2)
    epochs = np.arange(1, len(found.train_loss) + 1)
    left.plot(epochs, found.train_loss, color=COLOURS[0], label="80 training users")
    left.plot(epochs, found.test_loss, color=COLOURS[1], label="20 test users")
    left.axhline(found.figures["loss_of_the_mean"], color=GREY, linestyle=":", label="saying the mean")
    left.axhline(lstm.PUBLISHED_LOSS, color=COLOURS[3], linestyle="--", label=f"published: {lstm.PUBLISHED_LOSS}")
    left.set_yscale("log")
    left.set(xlabel="epoch", ylabel="mean squared error, in variances", title="Loss")
    left.legend()
    right.plot([0, 50], [0, 50], color=GREY, linewidth=1)
    right.scatter(100 * found.demand, 100 * found.said, color=COLOURS[0], s=26)
    right.set(xlabel="drawn, % off", ylabel="said by the network, % off", title="Discount at which a test user buys")
    return png(drawn)


@styled
def discount_scatter(sessions: logistic.Sessions, found: logistic.Reproduced) -> bytes:
    """The visitors kept apart by activity and chance of a purchase, coloured by the discount they would get; PNG."""
    depth = linear_depth_bp(POLICY, found.score.astype(np.float32)) / 100
    at = {name: place for place, name in enumerate(sessions.names)}
    seconds = np.expm1(sessions.x[found.test, at["log ProductRelated_Duration"]])
    leaving = 100 * sessions.x[found.test, at["ExitRates"]]
    bought = sessions.bought[found.test]
    drawn, panels = canvas(11, 4.6, 1, 2)
    for axes, kept, words in zip(panels, (~bought, bought), ("left without buying", "bought"), strict=True):
        points = axes.scatter(
            seconds[kept] + 1, leaving[kept], s=14, c=depth[kept], cmap="viridis", alpha=0.85, linewidths=0
        )
        points.set_clim(float(depth.min()), float(depth.max()))
        axes.set_xscale("log")
        axes.set(xlim=(0.8, seconds.max() * 1.5), ylim=(-0.5, leaving.max() + 0.5))
        axes.set(xlabel="activity: seconds on product pages, + 1", title=f"{int(kept.sum())} sessions that {words}")
        drawn.colorbar(points, ax=axes, label="discount they would get, % off")
    panels[0].set_ylabel("exit rate of the pages seen, %")
    return png(drawn)
