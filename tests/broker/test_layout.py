import base64
from pathlib import Path

from stream.broker import layout

PORTS = layout.Ports(12345, 12346)


def template(folder: Path) -> Path:
    folder.mkdir()
    (folder / "bootstrap.checkpoint").write_bytes(b"features")
    return folder


def meta(data: Path) -> dict[str, str]:
    lines = (data / "kafka" / "meta.properties").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines)


def test_each_new_folder_has_ids_of_its_own_and_keeps_them(tmp_path: Path) -> None:
    made = template(tmp_path / "template")
    for name in ("a", "b"):
        layout.lay_out(tmp_path / name, PORTS, made)
    first, second = meta(tmp_path / "a"), meta(tmp_path / "b")
    assert first["node.id"] == second["node.id"] == "1"
    assert first["cluster.id"] != second["cluster.id"]
    assert first["directory.id"] != second["directory.id"]
    layout.lay_out(tmp_path / "a", layout.Ports(23456, 23457), made)
    assert meta(tmp_path / "a") == first
    assert "127.0.0.1:23456" in (tmp_path / "a" / "server.properties").read_text()


def test_a_first_start_that_was_cut_short_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "data" / "kafka").mkdir(parents=True)
    (tmp_path / "data" / "kafka" / "bootstrap.checkpoint").write_bytes(b"fea")
    layout.lay_out(tmp_path / "data", PORTS, template(tmp_path / "template"))
    assert (tmp_path / "data" / "kafka" / "bootstrap.checkpoint").read_bytes() == b"features"
    assert meta(tmp_path / "data")["version"] == "1"


def test_a_folder_with_topics_but_no_identity_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "data" / "kafka" / "topic-0").mkdir(parents=True)
    layout.lay_out(tmp_path / "data", PORTS, template(tmp_path / "template"))
    assert [path.name for path in (tmp_path / "data" / "kafka").iterdir()] == ["topic-0"]


def test_ids_are_kafkas() -> None:
    for _ in range(300):
        text = layout.random_kafka_id()
        assert not text.startswith("-")
        assert len(base64.urlsafe_b64decode(text + "==")) == 16


def test_it_listens_on_the_loopback_interface_only() -> None:
    lines = layout.server_properties(Path("/data"), PORTS).splitlines()
    settings = dict(line.split("=", 1) for line in lines)
    addresses = settings["listeners"].split(",") + settings["advertised.listeners"].split(",")
    assert all(address.split("://")[1].startswith("127.0.0.1:") for address in addresses)
    assert int(settings["message.max.bytes"]) > 10_000_000
    assert settings["auto.create.topics.enable"] == "false"
