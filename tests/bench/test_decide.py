"""The benchmark of decisions measures what it says."""

from stream.core.decide import Reason
from tests.bench import decide


def test_each_case_asks_as_many_campaigns_as_it_says_and_does_not_end_with_the_first() -> None:
    rows = decide.measure(1, n_batches=1, runs=1)
    assert [row["job"].split(", ", 2)[2] for row in rows] == [title for _, _, title in decide.CASES]
    for (filtered, profit, _), row in zip(decide.CASES, rows, strict=True):
        assert row["decisions"] == decide.N_BATCH
        assert row["decisions_per_s"] > 0
        assert (row["eligible_campaigns_mean"] == decide.N_CAMPAIGNS) is not filtered
        assert profit or row["offers"] < 0.1 * decide.N_BATCH  # an offer ends the asking
    assert any(row["offers"] for row in rows)


def test_the_triggers_meet_caps_and_cool_downs() -> None:
    events, rows = decide.triggers(1, decide.N_BATCH)
    campaigns = decide.compiled(decide.documents(filtered=False))
    decisions = decide.decided(events, rows, campaigns, 1)
    reasons = set(decisions["reason"].tolist())
    assert {Reason.COOL_DOWN, Reason.CAP, Reason.POLICY_NONE, Reason.OFFERED} <= reasons
