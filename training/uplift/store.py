"""An uplift model as a folder: `model.joblib`, which is loaded only if it is what `model.json` says it is."""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import joblib
import sklearn

from training.errors import TrainingError
from training.files import write_json, write_whole
from training.uplift.model import Candidate, UpliftModel

FORMAT = 1


def save(model: UpliftModel, candidates: list[Candidate], customers: int, out: Path) -> None:
    """Write both files; each appears whole or not at all, `model.json`, which makes it a model, last.

    Raises:
        OSError: the folder cannot be written to.
    """
    buffer = io.BytesIO()
    joblib.dump(model, buffer)
    data = buffer.getvalue()
    said = {
        "uplift_format": FORMAT,
        "sha256": hashlib.sha256(data).hexdigest(),
        "scikit_learn": sklearn.__version__,
        "format": model.format,
        "customers": customers,
        "seed": model.seed,
        "arms": list(model.arms),
        "outcome": model.outcome_name,
        "value_per_outcome": model.value_per_outcome,
        "cost": dict(zip(model.arms, model.cost, strict=True)),
        "rule": "the arm with the highest value_per_outcome x uplift - cost, where that is above 0; else none",
        "everybody": model.everybody,
        "averaged": [{"learner": part.learner, "base": part.base} for part in model.parts],
        "candidates": [candidate._asdict() for candidate in candidates],
    }
    (out / "model.json").unlink(missing_ok=True)
    write_whole(out / "model.joblib", data)
    write_json(out / "model.json", said)


def load(folder: Path) -> UpliftModel:
    """Read a model that `save` wrote. The file can run code when it is read: load only what you or yours have made.

    Raises:
        TrainingError: no model, of another format or version of scikit-learn, or not the bytes that were written.
    """
    described = folder / "model.json"
    if not described.is_file():
        raise TrainingError(f"{folder}: no uplift model (model.json is missing); `uplift fit --out {folder}` makes one")
    try:
        said: dict[str, Any] = json.loads(described.read_bytes())
        of, sha256, version = said["uplift_format"], said["sha256"], said["scikit_learn"]
        data = (folder / "model.joblib").read_bytes()
    except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
        raise TrainingError(f"{folder}: no uplift model: {error!r}") from error
    if of != FORMAT:
        raise TrainingError(f"{described}: of format {of}, this version reads {FORMAT}; fit again")
    if version != sklearn.__version__:
        raise TrainingError(f"{described}: made with scikit-learn {version}, here is {sklearn.__version__}; fit again")
    if hashlib.sha256(data).hexdigest() != sha256:
        raise TrainingError(f"{folder / 'model.joblib'}: not what model.json says it is; fit again")
    model = joblib.load(io.BytesIO(data))
    if not isinstance(model, UpliftModel):
        raise TrainingError(f"{folder / 'model.joblib'}: holds no uplift model")
    return model
