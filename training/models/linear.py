"""Linear regression of a user's discount demand, the depth at which they buy, on the last steps' mean and the newest.

Learnt from decision points that an order follows, as a share of its price; squared error.
"""

from training.models.head import Depth
from training.models.logistic import Mean
from training.models.network import Network, windowed
from training.prepare import Standard


def build(standard: Standard, n_arms: int, dropout: float) -> Network:
    """See `training.models.network.windowed`.

    Raises:
        ValueError: more than one arm; a depth is one number.
    """
    if n_arms != 1:
        raise ValueError(f"a depth is asked for {n_arms} arms; it is one number")
    return windowed("linear", Mean(), standard, Depth(), dropout)
