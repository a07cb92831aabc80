"""All that is kept about a user, and nothing of anybody else."""

import json
import time
from collections import Counter
from random import Random

from click.testing import CliRunner

from stream.kafka.export import export_command
from stream.kafka.partitioner import partitions
from tests.e2e.expect import KIND_NAMES, hash32
from tests.e2e.harness import Event, Site, event
from tests.e2e.logs import shop_log


def exported(site: Site, user: str) -> dict[str, object]:
    environment = {
        "KAFKA_BOOTSTRAP": site.settings.bootstrap,
        "OFFERSTREAM_TOPIC_PREFIX": site.settings.topic_prefix,
        "OFFERSTREAM_APP_ID": site.settings.app_id,
    }
    result = CliRunner(env=environment).invoke(export_command, [user])
    assert result.exit_code == 0, result.output
    said: dict[str, object] = json.loads(result.output)
    return said


def test_all_of_one_user_and_nothing_of_others(site: Site) -> None:
    now_ms = time.time_ns() // 1_000_000
    users = [f"customer-{i:02}" for i in range(20)]
    log = shop_log(Random(3), 500, users, now_ms - 3_600_000, "export", duplicates=0)
    user = "customer-07"
    profile = {"registered_ms": now_ms - 10**9, "birthday": "02-29", "tier": "gold", "consent": True}
    log.append(event("customers", event_id="profile", user_id=user, time_ms=now_ms, **profile))
    order = {"kind": "placed", "order_id": "o1", "total_minor": 4_200, "currency": "EUR"}
    log.append(event("orders", event_id="order", user_id=user, time_ms=now_ms, lines=None, **order))
    junk = Event("orders", user.encode(), b"\xff\x00 no JSON")
    astray = next(e for e in log if e.key == user.encode() and e.source == "clickstream")
    wrong = 1 - int(partitions([user.encode()], 2)[0])
    site.publish([*log, junk, astray._replace(partition=wrong)])
    with site.worker() as worker:
        site.wait_applied([worker])
    said = exported(site, user)

    text = json.dumps(said)
    assert all(other not in text for other in users if other != user)
    topics = said["topics"]
    assert isinstance(topics, dict)
    ours = [(e, place) for e, place in site.sent if e.key == user.encode()]
    for source in ("clickstream", "orders", "feedback", "redemptions", "customers"):
        wanted = {(p, o): e.value for e, (s, p, o) in ours if s == source}
        found = {(r["partition"], r["offset"]): r for r in topics[site.settings.topic(source)]}
        assert found.keys() == wanted.keys()
        for place, value in wanted.items():
            if value == junk.value:
                assert found[place]["value_base64"]
            else:
                assert found[place]["value"] == json.loads(value or b"")
    for output in ("offers", "decisions"):
        wanted_out = [r.json for r in site.out(output) if r.key == user.encode()]
        assert [r["value"] for r in topics[site.settings.topic(output)]] == wanted_out
    dead = topics[site.settings.topic("dead-letters")]
    assert sorted(r["headers"]["reason"] for r in dead) == ["not_utf8", "wrong_partition"]

    row = said["row"]
    assert isinstance(row, dict)
    good = [json.loads(e.value or b"") for e, (_, p, _) in ours if e.value != junk.value and p != wrong]
    kinds = Counter(value.get("kind", "profile") for value in good)
    # The contract's names for kinds stand in the oracle in the order of their codes, as the export's do.
    assert list(row["kind_total"].values()) == [kinds[name] for name in KIND_NAMES]
    assert row["spend_minor"] == sum(v["total_minor"] for v in good if v.get("kind") == "placed")
    assert (row["tier"], row["birthday"], row["consent"], row["objection"]) == ("gold", "02-29", True, False)
    assert len(row["steps"]) == min(32, row["seq"])
    named = [v.get("product_id") or (v.get("lines") or [{}])[0].get("product_id") for v in good]
    viewed = {f"{hash32(product):x}" for product in named if product}
    assert {product for product in row["recent_products"] if product != "0"} <= viewed


def test_a_user_of_whom_nothing_is_kept(site: Site) -> None:
    said = exported(site, "nobody")
    assert said["row"] is None
    assert isinstance(said["topics"], dict)
    assert not any(said["topics"].values())
    assert CliRunner().invoke(export_command, ["x" * 65]).exit_code == 2
