"""The builders by name: adding a network is a file and a line here."""

from collections.abc import Callable

from training.models import cnn, gru, linear, logistic, lstm, rnn, transformer
from training.models.network import Network
from training.prepare import Standard

Builder = Callable[[Standard, int, float], Network]
"""(standard, number of arms, dropout) to a network with fresh weights."""

BUILDERS: dict[str, Builder] = {
    "lstm": lstm.build,
    "gru": gru.build,
    "rnn": rnn.build,
    "cnn": cnn.build,
    "transformer": transformer.build,
    "logistic": logistic.build,
    "linear": linear.build,
}
DEPTH_BUILDERS = frozenset({"linear"})
"""Those that answer with a depth."""
DEFAULT = "lstm"
