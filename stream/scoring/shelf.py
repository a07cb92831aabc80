"""From the records of the `models` topic to the models in force: a file is verified once, its watch stays with it."""

import json
import logging
from collections.abc import Callable, Mapping
from typing import NamedTuple

from stream.scoring.artefact import ModelRefused, Refusal
from stream.scoring.control import (
    FILE_KEY_PREFIX,
    RETRAIN_KEY_PREFIX,
    URI_KEY_PREFIX,
    WITHDRAWN_KEY_PREFIX,
    candidates,
    challenger_of,
    champion_of,
    is_withdrawn,
    key_of,
)
from stream.scoring.files import Verify, file_of
from stream.scoring.model import load
from stream.scoring.scorer import Scorer, Trial, Watched
from stream.scoring.watch import Fault, Finding, Limits, Watch

logger = logging.getLogger(__name__)

UNFIT = {
    Refusal.NAN: Fault.NAN,
    Refusal.SCORE_RANGE: Fault.NAN,
    Refusal.GOLDEN_DIFFER: Fault.GOLDEN,
}
"""Refusals that are the model's own fault, wherever it is tried, so that it is withdrawn from every worker. Others may
be this worker's: of another version, without a key, cut off from where the file lies."""

HELD = 2
"""Models in memory that score, champion and the one before; a challenger comes on top."""


class Verdict(NamedTuple):
    """What this worker has to say of a model: a record for the topic."""

    key: bytes
    value: bytes
    text: str
    fault: Fault | None
    """None: the model is fit, and should be trained anew."""


class Shelf:
    """Verified models by SHA-256, and those that were refused."""

    def __init__(self, limits: Limits, verify: Verify | None, on_refused: Callable[[ModelRefused], None]) -> None:
        """Empty.

        Args:
            limits: that models are watched by.
            verify: checks signatures; None: files need none.
            on_refused: told each refusal, once.
        """
        self._limits = limits
        self._verify = verify
        self._on_refused = on_refused
        self._held: dict[str, Watched] = {}
        self._refused: dict[str, ModelRefused] = {}
        self._pointer_refused = ""

    def scorer(self, records: Mapping[bytes, bytes], now: Scorer) -> Scorer:
        """What is to score, by the records; what cannot be taken over is named and left out.

        Args:
            records: of the topic, latest value by key, deleted keys left out.
            now: what scores until then; it goes on where nothing that is named is fit.
        """
        try:
            named = candidates(records)
            challenger = challenger_of(records)
        except ModelRefused as refusal:
            if str(refusal) != self._pointer_refused:
                self._tell(refusal)
            self._pointer_refused = str(refusal)
            return now
        self._pointer_refused = ""
        # A file that comes after all is looked at, one that comes again too.
        self._refused = {
            sha: why
            for sha, why in self._refused.items()
            if _is_there(records, sha) != (why.reason == Refusal.FILE_MISSING)
        }
        fit: list[Watched] = []
        for sha256_hex in named:
            one = self._of(records, sha256_hex) if len(fit) < HELD else None
            fit += [one] if one is not None else []
        before = [one for one in (now.champion, now.before) if one and not is_withdrawn(records, one.model.hex)]
        fit += [one for one in before if one not in fit]  # a file that is gone from the topic scores while it is here
        if not fit:
            withdrawn = now.champion is not None and is_withdrawn(records, now.champion.model.hex)
            return Scorer() if withdrawn else now
        trial = None
        if challenger is not None and challenger.sha256 != fit[0].model.hex:
            one = None if is_withdrawn(records, challenger.sha256) else self._of(records, challenger.sha256)
            if one is not None and one.model.metadata.arms != fit[0].model.metadata.arms:
                theirs, ours = one.model.metadata.arms, fit[0].model.metadata.arms
                text = f"the challenger answers for {list(theirs)}, the champion for {list(ours)}"
                self._refuse(challenger.sha256, ModelRefused(Refusal.ARMS_DIFFER, text))
                one = None
            trial = None if one is None else Trial(one, challenger.mode, challenger.share)
        new = Scorer(fit[0], fit[1] if len(fit) > 1 else None, trial)
        self._held = {one.model.hex: one for one in new.watched}
        return new

    def verdicts(self, records: Mapping[bytes, bytes], scorer: Scorer, now_ms: int) -> list[Verdict]:
        """What there is to say of the models in force and of those refused, and is not in the records yet.

        The last model that is fit to score is not withdrawn for being slow or far from its training: none would score.
        """
        found: list[Verdict] = []
        for sha256_hex, why in self._refused.items():
            if why.reason in UNFIT:
                found.append(_withdrawal(sha256_hex, UNFIT[why.reason], why.text, now_ms))
        pointer = champion_of(records)
        trial = challenger_of(records)
        for one in scorer.watched:
            is_trial = scorer.trial is not None and one is scorer.trial.watched
            promoted_ms = trial.published_ms if is_trial and trial else pointer.published_ms if pointer else 0
            fault = one.watch.fault(promoted_ms, now_ms)
            last = not is_trial and scorer.before is None
            if fault is not None and (fault.fault == Fault.NAN or not last):
                found.append(_withdrawal(one.model.hex, fault.fault, _figures(fault), now_ms, fault))
        champion = scorer.champion
        if champion is not None and (drifted := champion.watch.drifted()):
            text = ", ".join(f"{name} {psi:.3f}" for name, psi in sorted(drifted.items(), key=lambda one: -one[1]))
            said = {"psi": drifted, "limit": self._limits.psi_retrain, "at_ms": now_ms}
            key = key_of(RETRAIN_KEY_PREFIX, champion.model.hex)
            found.append(Verdict(key, json.dumps(said).encode(), f"drift, PSI above its limit: {text}", None))
        return [one for one in found if one.key not in records]

    def _of(self, records: Mapping[bytes, bytes], sha256_hex: str) -> Watched | None:
        """A model, verified once; None where it is refused."""
        if sha256_hex in self._held:
            return self._held[sha256_hex]
        if sha256_hex in self._refused:
            return None
        try:
            model = load(file_of(records, sha256_hex, self._verify))
            return Watched(model, Watch(model.metadata, self._limits))
        except ModelRefused as refusal:
            self._refuse(sha256_hex, refusal)
            return None

    def _refuse(self, sha256_hex: str, refusal: ModelRefused) -> None:
        if refusal.reason != Refusal.FETCH_FAILED:  # which the next change of the topic tries again
            self._refused[sha256_hex] = refusal
        self._tell(refusal)

    def _tell(self, refusal: ModelRefused) -> None:
        logger.error("%s", refusal)
        self._on_refused(refusal)


def _is_there(records: Mapping[bytes, bytes], sha256_hex: str) -> bool:
    return any(key_of(prefix, sha256_hex) in records for prefix in (FILE_KEY_PREFIX, URI_KEY_PREFIX))


def _withdrawal(sha256_hex: str, fault: Fault, text: str, now_ms: int, figures: Finding | None = None) -> Verdict:
    said: dict[str, str | float] = {"fault": fault.value, "text": text, "at_ms": now_ms}
    if figures is not None:
        said |= {"figure": figures.figure, "limit": figures.limit}
    return Verdict(key_of(WITHDRAWN_KEY_PREFIX, sha256_hex), json.dumps(said).encode(), f"{fault}: {text}", fault)


def _figures(found: Finding) -> str:
    return {
        Fault.NAN: f"{found.figure:g} scores that are no probabilities",
        Fault.LATENCY: f"{found.figure:.0f} us a step, limit {found.limit:g}",
        Fault.SCORE_DRIFT: f"PSI of its scores {found.figure:.3f}, limit {found.limit:g}",
    }[found.fault]
