"""The control topics: read whole at the start, followed, and nothing in them stops a worker."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from stream.core.row import N_FEATURES
from stream.core.segments import Learned
from stream.errors import SetupError
from stream.kafka.control import Control, InForce
from stream.metrics import Metrics
from stream.scoring.control import CHAMPION_KEY, file_key, pointer_json
from stream.scoring.segments import SEGMENTS_KEY
from tests.e2e.harness import Site, wait_until
from tests.scoring.segments_file import segments_file
from training.seeded import seeded_model

CAMPAIGN = {
    "id": "a",
    "name": "A",
    "version": 1,
    "trigger": {"kinds": ["cart_add"]},
    "arms": [{"id": "ten", "kind": "percent", "percent": 10}],
    "policy": {"kind": "threshold", "probability": 0.5, "arm": "ten"},
    "valid_for": "24h",
}


@pytest.fixture
def site(broker: str, topic_prefix: str, tmp_path: Path) -> Site:
    return Site(broker, topic_prefix, tmp_path, partitions=1)


class Followed:
    def __init__(self, site: Site) -> None:
        self.metrics = Metrics(CollectorRegistry())
        self.fatal: list[BaseException] = []
        self.control = Control(site.settings, self.metrics, self.fatal.append)

    def refused(self, reason: str) -> float:
        name = "offerstream_model_refused_total"
        return self.metrics.registry.get_sample_value(name, {"reason": reason}) or 0

    def until(self, holds: Callable[[InForce], bool], what: str) -> InForce:
        wait_until(lambda: holds(self.control.in_force()), what, 15)
        assert not self.fatal
        return self.control.in_force()


@contextmanager
def following(site: Site) -> Iterator[Followed]:
    followed = Followed(site)
    followed.control.start()
    try:
        yield followed
    finally:
        followed.control.stop()
    assert not followed.fatal


def versions(in_force: InForce) -> dict[str, int]:
    return {campaign.id: campaign.version for campaign in in_force.campaigns.campaigns}


def published(model: bytes) -> list[tuple[bytes, bytes | None]]:
    sha = hashlib.sha256(model).hexdigest()
    return [(file_key(sha), model), (CHAMPION_KEY, pointer_json(sha, 1))]


def test_empty_topics(site: Site) -> None:
    with following(site) as followed:
        in_force = followed.control.in_force()
        assert in_force.scorer.champion is None
        assert versions(in_force) == {}


def test_what_is_there_is_in_force_before_the_first_batch(site: Site) -> None:
    """The latest of each key, whatever came before."""
    site.put_control("models", [*published(seeded_model(1)), *published(seeded_model(2))])
    site.publish_campaigns(CAMPAIGN, CAMPAIGN | {"id": "b"}, CAMPAIGN | {"version": 2})
    site.put_control("campaigns", [(b"b", None)])
    with following(site) as followed:
        in_force = followed.control.in_force()
        assert in_force.scorer.hex == hashlib.sha256(seeded_model(2)).hexdigest()
        assert versions(in_force) == {"a": 2}


def test_a_batch_sees_one_set_from_beginning_to_end(site: Site) -> None:
    site.publish_campaigns(CAMPAIGN)
    with following(site) as followed:
        before = followed.control.in_force()
        site.publish_campaigns(CAMPAIGN | {"version": 2})
        after = followed.until(lambda now: versions(now) == {"a": 2}, "version 2")
        assert versions(before) == {"a": 1}
        assert after.scorer is before.scorer


def test_garbage_is_named_and_left_out(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    garbage: list[tuple[bytes, bytes | None]] = [
        (b"broken", b"{"),
        (b"null", b"null"),
        (b"\xff\xfe", b"\x00\xff"),
        (b"deep", b"[" * 100_000),
        (b"other-id", json.dumps(CAMPAIGN).encode()),
        (b"", b"{}"),
        (b"nothing", None),
    ]
    site.put_control("campaigns", garbage)
    site.put_control("models", [(b"\xff", b"x"), (b"model:", b""), (CHAMPION_KEY, b"\xff"), (b"other", None)])
    site.publish_campaigns(CAMPAIGN)
    with following(site) as followed:
        assert versions(followed.control.in_force()) == {"a": 1}
        assert followed.control.in_force().scorer.champion is None
        assert followed.refused("pointer_invalid") == 1
        site.put_control("models", published(seeded_model(1)))
        followed.until(lambda now: now.scorer.champion is not None, "a model after all")
        site.put_control("campaigns", garbage)
        site.publish_campaigns(CAMPAIGN | {"version": 2})
        followed.until(lambda now: versions(now) == {"a": 2}, "version 2")
    for name in ("broken", "null", "deep", "other-id"):
        assert f"campaign {name} refused" in caplog.text


def test_a_refused_model_is_verified_once(site: Site) -> None:
    good, bad = seeded_model(1), seeded_model(2)[:-100]
    site.put_control("models", published(good))
    with following(site) as followed:
        champion = followed.control.in_force().scorer.champion
        site.put_control("models", published(bad))
        wait_until(lambda: followed.refused("not_onnx"), "the refusal", 15)
        site.put_control("models", [(b"model:unused", b"x")])
        site.publish_campaigns(CAMPAIGN)
        followed.until(lambda now: versions(now) == {"a": 1}, "what came after")
        assert followed.refused("not_onnx") == 1
        assert followed.control.in_force().scorer.champion is champion
        # A champion that is deleted, or named again, changes nothing.
        site.put_control("models", [(CHAMPION_KEY, None)])
        site.put_control("models", published(good))
        site.publish_campaigns(CAMPAIGN | {"version": 2})
        followed.until(lambda now: versions(now) == {"a": 2}, "what came after")
        assert followed.control.in_force().scorer.champion is champion


def test_segments_are_taken_over_and_given_up(site: Site) -> None:
    """Campaigns ask whatever file is in force; a broken one leaves the one before, a deleted one leaves none."""

    def learned(in_force: InForce) -> Learned | None:
        return in_force.campaigns.segment_rules.learned

    step = np.full((1, N_FEATURES), 255, np.uint8)
    site.publish_campaigns(CAMPAIGN)
    with following(site) as followed:
        assert learned(followed.control.in_force()) is None
        site.put_control("models", [(SEGMENTS_KEY, segments_file())])
        of = learned(followed.until(lambda found: learned(found) is not None, "segments"))
        assert of is not None
        assert of(step).tolist() == [2]
        assert versions(followed.control.in_force()) == {"a": 1}
        site.put_control("models", [(SEGMENTS_KEY, segments_file(features_hash="00"))])
        wait_until(lambda: followed.refused("features_differ") == 1, "a refusal", 15)
        assert learned(followed.control.in_force()) == of
        site.put_control("models", [(SEGMENTS_KEY, None)])
        followed.until(lambda found: learned(found) is None, "no segments")


def test_a_topic_that_is_not_there(site: Site, topic_prefix: str) -> None:
    settings = dataclasses.replace(site.settings, topic_prefix=f"{topic_prefix}none-")
    control = Control(settings, Metrics(CollectorRegistry()), lambda _: None)
    with pytest.raises(SetupError, match="topics create"):
        control.start()
