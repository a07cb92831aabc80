import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from threadpoolctl import threadpool_limits

from stream.core.campaign import CampaignSet
from stream.core.events import EVENT, Kind
from stream.core.facts import Triggers
from stream.core.features import dequantise
from stream.core.fold import fold
from stream.core.row import DAY_MS, new_rows
from stream.core.segments import SEGMENT_RULES, Segment
from stream.kafka.control import InForce
from stream.kafka.topics import read_control
from stream.scoring.scorer import Scorer
from stream.scoring.segments import SEGMENTS_KEY, load_segmenter
from stream.topology import process
from training.cli import cli
from training.errors import TrainingError
from training.log import EventLog
from training.segments.classify import CLASSIFIERS, exported, fitted
from training.segments.clusters import Clusters, find, named
from training.segments.make import Made, make, previous_of
from training.segments.sample import STEPS_A_USER, USED, draw, used

MakeLog = Callable[..., EventLog]
START_MS = 1_700_000_000_000


@pytest.fixture(scope="module")
def made(log: EventLog) -> Made:
    return make(log, "kmeans", 4, None, None, 1)


def call(*args: object) -> Result:
    return CliRunner().invoke(cli, ["segments", *map(str, args)])


def test_a_worker_assigns_what_was_learned(made: Made, log: EventLog) -> None:
    """Rows as the topology leaves them: what campaigns ask of each row is the segment of its newest step."""
    segmenter = load_segmenter(made.data)
    rows = new_rows(len(log.users))
    now_ms = int(log.events["time_ms"].max())
    outcome = process(
        log.events, log.row, rows, InForce(Scorer(), CampaignSet()), now_ms, np.zeros(len(log.row)), 1, lambda _: None
    )
    last = np.array([np.flatnonzero(log.row == user)[-1] for user in range(len(log.users))])
    rules = replace(SEGMENT_RULES, learned=segmenter.of)
    said = Triggers(log.events[last], rows, np.arange(len(rows)), now_ms, rules).fact("learned_segment")
    np.testing.assert_array_equal(said, segmenter.of(outcome.steps[last]))
    assert set(said.tolist()) <= set(made.named.number)
    some = Triggers(log.events[last], rows, np.array([5, 0, 9]), now_ms, rules).fact("learned_segment")
    np.testing.assert_array_equal(some, said[[5, 0, 9]])
    for unknown in (
        Triggers(log.events[last], new_rows(len(rows)), np.arange(len(rows)), now_ms, rules),
        Triggers(log.events[last], rows, np.arange(len(rows)), now_ms, SEGMENT_RULES),
    ):
        assert np.isnan(unknown.fact("learned_segment")).all()


def test_the_file_says_what_the_clusters_are(made: Made) -> None:
    """The classifier that workers run against the groups themselves."""
    said = load_segmenter(made.data).of(made.sample.steps)
    truth = np.array(made.named.number)[made.clusters.label]
    assert (said == truth).mean() > 0.95
    for one in made.figures["classifiers"].values():
        assert one["f1"] > 0.8
        assert one["accuracy"] > one["majority"]
    assert made.figures["classifier"] == max(CLASSIFIERS, key=lambda name: made.figures["classifiers"][name]["f1"])
    assert sum(one["share"] for one in made.figures["segments"]) == pytest.approx(1)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_each_classifier_goes_to_workers(made: Made, name: str) -> None:
    """What scikit-learn says, the file says."""
    steps, number = made.sample.steps, np.array(made.named.number)[made.clusters.label]
    classifier = fitted(name, steps, number, 1)
    said = {"names": {str(one): "" for one in made.named.number}, "classifier": name}
    found = load_segmenter(exported(classifier, steps, said))
    assert found.metadata["classifier"] == name
    assert (found.of(steps) == classifier.predict(dequantise(steps))).mean() > 0.999


def test_names_stay_from_run_to_run(made: Made, make: MakeLog) -> None:
    """Other events, other seed: whoever stands where a segment stood keeps its number and name."""
    from training.segments.make import make as learn

    earlier = dict(load_segmenter(made.data).metadata)
    again = learn(make(seed=5), "kmeans", 4, None, earlier, 2)
    kept = [number for number, same in zip(again.named.number, again.named.same, strict=True) if same]
    assert len(kept) >= 3
    scale = again.sample.used().std(axis=0)
    for at, number in enumerate(again.named.number):
        if again.named.same[at]:
            assert again.named.name[at] == earlier["names"][str(number)]
            near = np.abs(again.clusters.centre[at] - earlier["centres"][str(number)]) / np.where(scale > 0, scale, 1)
            assert np.sqrt(np.square(near).mean()) < 0.5
        else:
            assert number > max(made.named.number)


def test_a_number_is_never_given_twice() -> None:
    centre = np.zeros((2, len(USED)))
    centre[1] = 9.0
    clusters = Clusters(np.array([0, 0, 1]), centre, {})
    one, zero = np.ones(len(USED)), np.zeros(len(USED))
    earlier = {"names": {"7": "here"}, "centres": {"7": [9.1] * len(USED)}, "numbers_used": 11}
    found = named(clusters, one, zero, earlier)
    assert found.number == [12, 7]
    assert found.name[1] == "here"
    assert found.same == [False, True]
    assert named(clusters, one, zero, None).number == [1, 2]  # the larger first
    with pytest.raises(TrainingError, match="begin anew"):
        named(clusters, one, zero, {**earlier, "numbers_used": 255})


def blobs(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    middle = rng.normal(size=(3, len(USED))) * 6
    truth = rng.integers(0, 3, n)
    return (middle[truth] + rng.normal(size=(n, len(USED)))).astype(np.float32), truth


@pytest.mark.parametrize("method", ["kmeans", "dbscan"])
def test_groups_that_are_there_are_found(method: str) -> None:
    x, truth = blobs(900)
    with threadpool_limits(1):
        found = find(x, method, None, 0)
    inside = found.label >= 0
    assert inside.mean() > 0.7
    assert found.label.max() == 2
    for group in range(3):  # each group is of one kind
        assert len(set(truth[found.label == group].tolist())) == 1
    assert found.figures["silhouette"] > 0.6
    assert found.figures["agreement_with_another_seed"] > 0.8


def test_dbscan_says_when_there_is_one_crowd_only() -> None:
    x = np.random.default_rng(0).normal(size=(600, len(USED))).astype(np.float32)
    with pytest.raises(TrainingError, match="use --method kmeans"):
        find(x, "dbscan", None, 0)


def test_rules_are_those_of_a_loop_over_the_users_events() -> None:
    """One user over half a year: new, regular, frequent, dormant until the event that comes back."""
    days = [0, 10, 35, 36, 37, 38, 39, 100, 101]
    orders = [False, True, True, True, True, True, False, False, False]
    events = np.zeros(len(days), EVENT)
    events["time_ms"] = START_MS + np.array(days) * DAY_MS
    events["kind"] = np.where(orders, Kind.ORDER_PLACED, Kind.PAGE_VIEW)
    events["event_id"] = np.arange(1, len(days) + 1)
    log = EventLog([b"u"], np.zeros(len(days), np.int64), events)
    expected = []
    for at, day in enumerate(days):
        recent = sum(orders[j] and day - 30 < days[j] for j in range(at + 1))
        if day < 30:
            expected.append(Segment.NEW)
        elif recent > 3:
            expected.append(Segment.FREQUENT)
        elif at and any(orders[:at]) and day - days[at - 1] > 30:
            expected.append(Segment.DORMANT)
        else:
            expected.append(Segment.REGULAR)
    assert set(expected) == set(Segment)
    assert draw(log, 0).rule.tolist() == expected


def test_a_user_with_many_events_is_one_user(log: EventLog) -> None:
    sample = draw(log, 3)
    events = np.bincount(log.row, minlength=len(log.users))
    np.testing.assert_array_equal(np.bincount(sample.user), np.minimum(events, STEPS_A_USER))
    steps, _ = fold(log.events, log.row, new_rows(len(log.users)))
    assert {step.tobytes() for step in sample.steps} <= {step.tobytes() for step in steps}
    assert used(sample.steps).shape == (len(sample.steps), len(USED))


def test_published_segments_are_in_the_topic(made: Made, models: tuple[str, str], tmp_path: Path) -> None:
    bootstrap, prefix = models
    path = tmp_path / "segments.onnx"
    path.write_bytes(made.data)
    result = call("publish", path, "--bootstrap", bootstrap, "--topic-prefix", prefix)
    assert result.exit_code == 0, result.output
    record = read_control(bootstrap, prefix + "models")[SEGMENTS_KEY]
    assert record.value == made.data
    path.write_bytes(made.data[:1000])
    result = call("publish", path, "--bootstrap", bootstrap, "--topic-prefix", prefix)
    assert result.exit_code == 1
    assert "not_onnx" in result.output


def test_the_command_writes_file_figures_and_picture(tmp_path: Path) -> None:
    lines = []
    rng = np.random.default_rng(0)
    for user in range(60):
        t = 1_511_600_000 + 37 * user
        for turn in range(10):
            kind = rng.choice(["pv", "cart", "fav", "buy"], p=[0.7, 0.1, 0.1, 0.1])
            lines.append(f"{user},{turn},{turn % 4},{kind},{t}")
            t += int(rng.integers(60, 40_000))
    log = tmp_path / "log.csv"
    log.write_text("\n".join(lines) + "\n")
    out = tmp_path / "out"
    for known in (False, True):  # the second run finds the first one's file, and the same users in it
        result = call("fit", "--events", log, "--format", "taobao", "--out", out, "--k", "3")
        assert result.exit_code == 0, result.output
        assert sorted(path.name for path in out.iterdir()) == ["segments.json", "segments.onnx", "segments.png"]
        said = json.loads((out / "segments.json").read_text())
        assert [one["known"] for one in said["segments"]] == [known] * 3
        assert [one["number"] for one in said["segments"]] == [1, 2, 3]
    assert (out / "segments.png").read_bytes().startswith(b"\x89PNG")
    assert previous_of(out / "segments.onnx")["numbers_used"] == 3
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"x")
    result = call("fit", "--events", log, "--format", "taobao", "--out", tmp_path / "no", "--previous", bad)
    assert result.exit_code == 1
    assert "bad.onnx" in result.output
    assert not (tmp_path / "no").exists()
    few = tmp_path / "few.csv"
    few.write_text("\n".join(lines[:20]) + "\n")
    result = call("fit", "--events", few, "--format", "taobao", "--out", tmp_path / "no")
    assert (result.exit_code, (tmp_path / "no").exists()) == (1, False)
    assert "too few for segments" in result.output
