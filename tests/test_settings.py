import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.errors import SettingsError
from stream.settings import Settings, client_id, from_environment

FIELDS = {f.name: f for f in dataclasses.fields(Settings)}
DEFAULTS = dataclasses.asdict(Settings())
NUMBERS = {name: f for name, f in FIELDS.items() if type(f.default) in (int, float)}
BOUNDED = [(name, f.metadata[end], end) for name, f in NUMBERS.items() for end in ("low", "high")]


def read(**settings: str) -> Settings:
    return from_environment({f"OFFERSTREAM_{name.upper()}": text for name, text in settings.items()})


def complaints(**settings: str) -> list[str]:
    with pytest.raises(SettingsError) as raised:
        read(**settings)
    head, *lines = str(raised.value).splitlines()
    assert head == "bad settings:"
    assert raised.value.exit_code == 2
    return [line.strip() for line in lines]


def test_nothing_said_gives_the_defaults() -> None:
    assert from_environment({"PATH": "/bin", "OFFER": "x"}) == Settings()


def test_every_setting_is_read_as_what_it_is() -> None:
    given_ = {
        "bootstrap": "a.example:1,[::1]:2",
        "app_id": "shop",
        "topic_prefix": "test.",
        "instance_id": "worker-0",
        "data_dir": "/data",
        "admin_host": "0.0.0.0",
        "currency": "CHF",
        "timezone": "Europe/Zurich",
        "guarantee": "at_least_once",
        "lost_events": "count",
        "model_key": "key",
        "decision_sample": "0.25",
    }
    # the others are numbers; one more than the default is within their bounds
    given_ |= {name: str(DEFAULTS[name] + 1) for name in NUMBERS if name not in given_}
    found = dataclasses.asdict(read(**given_))
    assert set(found) == set(given_)
    for name, text in given_.items():
        assert type(found[name]) is type(DEFAULTS[name]) or isinstance(found[name], Path)
        assert str(found[name]) == text


def test_kafka_bootstrap_names_the_brokers_where_ours_does_not() -> None:
    assert from_environment({"KAFKA_BOOTSTRAP": "k:1"}).bootstrap == "k:1"
    assert from_environment({"KAFKA_BOOTSTRAP": "k:1", "OFFERSTREAM_BOOTSTRAP": "o:2"}).bootstrap == "o:2"


@pytest.mark.parametrize(("name", "bound", "end"), BOUNDED)
def test_every_number_has_bounds_and_keeps_to_them(name: str, bound: float | None, end: str) -> None:
    assert bound is not None, f"{name} has no {end} bound"
    if name not in {"batch_rows", "hot_rows"}:  # their relation is tried below
        assert getattr(read(**{name: str(bound)}), name) == bound
    beyond = bound - 1 if end == "low" else bound + 1
    (line,) = (c for c in complaints(**{name: str(beyond)}) if "from" in c)
    assert line.startswith(f"OFFERSTREAM_{name.upper()}='{beyond}': must be from ")


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("text", ["", "x", "1e", "0x10", "nan", "inf", "-inf", "1,5"])
def test_what_is_no_number_is_refused(name: str, text: str) -> None:
    (line,) = complaints(**{name: text})
    assert line.startswith(f"OFFERSTREAM_{name.upper()}={text!r}: ")


BAD = {
    "guarantee": "exactly_twice",
    "lost_events": "ignore",
    "currency": "Euro",
    "timezone": "Mars/Olympus",
    "app_id": "",
    "topic_prefix": "a b",
    "instance_id": "x/y",
    "bootstrap": "kafka",
    "admin_port": "65536",
    "decision_sample": "2",
}


def test_everything_that_is_wrong_is_named_at_once() -> None:
    lines = complaints(**BAD, batch_size="1", sesion_timeout_ms="1")
    named = {re.match(r"(?:OFFERSTREAM_|KAFKA_)([A-Z_]+)", line)[1].lower() for line in lines}  # type: ignore[index]
    assert named == {*BAD, "batch_size", "sesion_timeout_ms"}
    assert any("did you mean OFFERSTREAM_SESSION_TIMEOUT_MS?" in line for line in lines)
    assert len(lines) == len(named)


@pytest.mark.parametrize(("name", "text"), BAD.items())
def test_one_that_is_wrong_is_named_alone(name: str, text: str) -> None:
    assert len(complaints(**{name: text})) == 1


@pytest.mark.parametrize("text", ["", "/etc/passwd", "../UTC", "UTC\0", "Europe"])
def test_no_time_zone(text: str) -> None:
    assert "no such time zone" in complaints(timezone=text)[0]


@pytest.mark.parametrize(
    "text", ["", "k", "k:", ":1", "k:0", "k:65536", "k:x", "k:1,", "k:1;l:2", "http://k:1", "k:1\n2"]
)
def test_no_address(text: str) -> None:
    assert "is not host:port" in complaints(bootstrap=text)[0]


@pytest.mark.parametrize("text", ["k:1", "k:1, l:2", "10.0.0.1:9092", "[::1]:9092", "kafka-0.kafka.svc:9092"])
def test_addresses(text: str) -> None:
    assert read(bootstrap=text).bootstrap == text


def test_rows_in_memory_hold_a_batch() -> None:
    assert read(hot_rows="100", batch_rows="100").hot_rows == 100
    assert "HOT_ROWS" in complaints(hot_rows="99", batch_rows="100")[0]


@given(st.dictionaries(st.sampled_from(sorted(FIELDS)), st.text(max_size=12), max_size=6))
def test_any_text_is_read_or_refused_by_name(settings: dict[str, str]) -> None:
    try:
        found = read(**settings)
    except SettingsError as error:
        for line in str(error).splitlines()[1:]:
            assert line.strip().startswith(("OFFERSTREAM_", "KAFKA_BOOTSTRAP"))
    else:
        for name, f in NUMBERS.items():
            assert f.metadata["low"] <= getattr(found, name) <= f.metadata["high"]


def test_settings_are_frozen() -> None:
    settings: Any = Settings()
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.partitions = 8


def test_names_that_follow() -> None:
    settings = read(app_id="shop", topic_prefix="eu.", instance_id="w-1")
    assert settings.topic("offers") == "eu.offers"
    assert settings.changelog == "shop-rows-changelog"
    assert client_id(settings) == "shop-w-1"
