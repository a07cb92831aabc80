"""Classifiers that say a segment from a step: a tree, a forest, a support vector machine. One goes to workers."""

import json
import warnings
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from skl2onnx import to_onnx
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import accuracy_score, f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from stream.core.features import FEATURES, dequantise
from stream.core.row import N_FEATURES
from stream.scoring.artefact import features_hash
from stream.scoring.segments import FORMAT, INPUT, OUTPUT, SEGMENTS_METADATA_KEY
from stream.scoring.session import open_session
from training.errors import TrainingError
from training.segments.sample import USED

CLASSIFIERS = ("tree", "forest", "svm")
TEST_SHARE = 0.2
SVM_POINTS_MAX = 10_000
"""A support vector machine's time grows with the square of the points."""

AGREEMENT_MIN = 0.999
N_GOLDEN = 256
OPSET, IR_VERSION = 17, 8

_PLACES = [[feature.name for feature in FEATURES].index(name) for name in USED]
_RULE_PLACES = [
    [feature.name for feature in FEATURES].index(name) for name in ("gap", "since_buy", "tenure", "buys_30d")
]

Steps = NDArray[np.uint8]
Labels = NDArray[np.int64]


def _maker(name: str, seed: int) -> Any:  # noqa: ANN401  scikit-learn has no types
    # Bounded, so that any of them is some hundred kilobytes and microseconds a step.
    if name == "tree":
        return DecisionTreeClassifier(max_depth=8, min_samples_leaf=5, random_state=seed)
    if name == "forest":
        return RandomForestClassifier(30, max_depth=8, min_samples_leaf=3, random_state=seed, n_jobs=1)
    return make_pipeline(StandardScaler(), SVC(C=10.0, random_state=seed))


def fitted(name: str, steps: Steps, label: Labels, seed: int, *, rules: bool = False) -> Any:  # noqa: ANN401  as above
    """A classifier on steps.

    Args:
        name: one of CLASSIFIERS.
        steps: [N, F].
        label: [N].
        seed: of whatever is drawn.
        rules: of the features that rules look at, instead of USED.
    """
    if name == "svm" and len(steps) > SVM_POINTS_MAX:
        kept = np.random.default_rng(seed).choice(len(steps), SVM_POINTS_MAX, replace=False)
        steps, label = steps[kept], label[kept]
    places = _RULE_PLACES if rules else _PLACES
    chosen = ColumnTransformer([("used", "passthrough", places)])
    return make_pipeline(chosen, _maker(name, seed)).fit(dequantise(steps), label)


class Judged(NamedTuple):
    """A classifier on users that it has not seen."""

    accuracy: float
    f1: float
    """Mean over segments."""
    majority: float
    """Accuracy of always saying the commonest segment of the training users."""


def judge(model: Any, steps: Steps, label: Labels, train: Labels) -> Judged:  # noqa: ANN401  as above
    """Compare with the truth.

    Args:
        model: of `fitted`.
        steps: [N, F], of the test users.
        label: [N].
        train: labels of the training users.
    """
    said = model.predict(dequantise(steps))
    common = int(np.bincount(train).argmax())
    return Judged(
        float(accuracy_score(label, said)),
        float(f1_score(label, said, average="macro", zero_division=0)),
        float((label == common).mean()),
    )


def kept_apart(user: NDArray[np.int64], seed: int) -> NDArray[np.bool_]:
    """Which points belong to the fifth of the users kept apart, bool [N]."""
    drawn = np.random.default_rng(seed).random(int(user.max()) + 1) < TEST_SHARE
    return drawn[user]


def exported(model: Any, steps: Steps, said: dict[str, Any]) -> bytes:  # noqa: ANN401  as above
    """The file for workers.

    Args:
        model: of `fitted`, its labels are numbers of segments.
        steps: [N, F], on which the file must say what scikit-learn says.
        said: the metadata, without format, features and golden examples.

    Raises:
        TrainingError: the exported graph says something else.
    """
    x = dequantise(steps)
    options = {id(model): {"zipmap": False}}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Attribute `prob[AB]_` was deprecated", category=FutureWarning)
        graph = to_onnx(model, x[:1], target_opset=OPSET, options=options)
    graph.ir_version = IR_VERSION
    kept = graph.graph.output[0].name
    for node in graph.graph.node:
        for names in (node.input, node.output):
            for at, name in enumerate(names):
                if name in ("X", kept):
                    names[at] = INPUT if name == "X" else OUTPUT
    graph.graph.input[0].name, graph.graph.output[0].name = INPUT, OUTPUT
    del graph.graph.output[1:]
    session = open_session(graph.SerializeToString())
    (answers,) = session.run([OUTPUT], {INPUT: x})
    agreement = float((answers.reshape(-1) == model.predict(x)).mean())
    if agreement < AGREEMENT_MIN:
        raise TrainingError(f"the exported classifier agrees with the fitted one on {agreement:.4f} of the steps only")
    # Drawn, each feature on its own: a file that outlives an erasure must hold nobody's steps.
    drawn = np.random.default_rng(0).integers(0, len(steps), (N_GOLDEN, N_FEATURES))
    golden = steps[drawn, np.arange(N_FEATURES)]
    (answers,) = session.run([OUTPUT], {INPUT: dequantise(golden)})
    metadata = {
        "format": FORMAT,
        "features": [feature.name for feature in FEATURES],
        "features_hash": features_hash(),
        **said,
        "golden": {"steps": golden.tolist(), "segments": answers.reshape(-1).tolist()},
    }
    onnx.helper.set_model_props(graph, {SEGMENTS_METADATA_KEY: json.dumps(metadata, allow_nan=False)})
    data: bytes = graph.SerializeToString()
    return data
