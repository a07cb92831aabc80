"""Write what follows from the code: the settings part of values.schema.json, and the Grafana dashboard.

    python -m deploy.generate

A test (tests/deploy) fails where the files are not what this writes.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

from stream.settings import Settings

CHART = Path(__file__).resolve().parent / "helm" / "offerstream"
SCHEMA = CHART / "values.schema.json"
DASHBOARD = CHART / "files" / "dashboard.json"

CHART_SETS = {"bootstrap", "instance_id", "data_dir", "admin_host", "admin_port"}
"""Settings that the chart's templates give: from other values, the pod's name, or fixed."""

_TYPES = {int: "integer", float: "number"}


def schema_text() -> str:
    """values.schema.json, its settings made from `Settings`: names, types, ranges, what they mean."""
    schema = json.loads(SCHEMA.read_text())
    properties = {}
    for setting in dataclasses.fields(Settings):
        if setting.name in CHART_SETS:
            continue
        property_ = {
            "description": setting.metadata["doc"],
            "type": _TYPES.get(type(setting.default), "string"),
            "minimum": setting.metadata["low"],
            "maximum": setting.metadata["high"],
        }
        properties[setting.name] = {key: value for key, value in property_.items() if value is not None}
    schema["properties"]["settings"]["properties"] = properties
    return json.dumps(schema, indent=2) + "\n"


def by_rate(metric: str, by: str) -> str:
    """Sum of rates a second by a label."""
    return f'sum by ({by}) (rate({metric}{{job="$job"}}[$__rate_interval]))'


def quantile(q: float, histogram: str) -> str:
    """Estimated quantile over all workers."""
    return f'histogram_quantile({q}, sum by (le) (rate({histogram}_bucket{{job="$job"}}[$__rate_interval])))'


def selected(metric: str, by: str, how: str = "sum") -> str:
    """A gauge, summed up by a label."""
    return f'{how} by ({by}) ({metric}{{job="$job"}})'


# Title, unit, [(query, legend)], what to look at.
PANELS: list[tuple[str, str, list[tuple[str, str]], str]] = [
    (
        "Events",
        "ops",
        [(by_rate("offerstream_events_total", "outcome"), "{{outcome}}")],
        "Applied, dropped as duplicates, fenced after a restart, or put into dead-letters.",
    ),
    (
        "Lag",
        "short",
        [(selected("offerstream_lag_events", "topic, partition"), "{{topic}} {{partition}}")],
        "Records between the applied offset and the end of the log.",
    ),
    (
        "Publish to offer",
        "s",
        [
            (quantile(0.5, "offerstream_offer_latency_seconds"), "p50"),
            (quantile(0.99, "offerstream_offer_latency_seconds"), "p99"),
        ],
        "From the trigger's publish time until its offer was acknowledged.",
    ),
    ("Offers by campaign", "ops", [(by_rate("offerstream_offers_total", "campaign"), "{{campaign}}")], ""),
    ("Decisions by reason", "ops", [(by_rate("offerstream_decisions_total", "reason"), "{{reason}}")], ""),
    (
        "Silences",
        "ops",
        [
            (by_rate("offerstream_silences_total", "pod"), "fell due: {{pod}}"),
            (by_rate("offerstream_swept_rows_total", "pod"), "rows swept: {{pod}}"),
        ],
        "Users from whom nothing came for as long as a campaign waits, and the rows gone through to find them.",
    ),
    (
        "Dead letters by source",
        "ops",
        [
            (
                'sum by (source) (rate(offerstream_events_total{job="$job",outcome="dead"}[$__rate_interval]))',
                "{{source}}",
            )
        ],
        "Their reasons are in the headers of the topic dead-letters.",
    ),
    ("Dead letters by reason", "ops", [(by_rate("offerstream_dead_letters_total", "reason"), "{{reason}}")], ""),
    (
        "Event time",
        "ops",
        [(by_rate("offerstream_event_time_total", "what"), "{{what}}")],
        "Events that came after a later one of their user, were put in another order, or lie ahead of their record.",
    ),
    (
        "Take-overs and erasures",
        "short",
        [
            ('sum by (pod) (offerstream_standbys{job="$job"})', "standbys: {{pod}}"),
            (by_rate("offerstream_transactions_failed_total", "pod"), "transactions failed: {{pod}}"),
            (by_rate("offerstream_erasures_total", "pod"), "erasures: {{pod}}"),
            (by_rate("offerstream_rows_merged_total", "pod"), "merges: {{pod}}"),
            (by_rate("offerstream_passed_over_total", "pod"), "batches passed over: {{pod}}"),
        ],
        "Partitions followed for others; transactions that cost a take-over; users erased.",
    ),
    (
        "Not understood, or lost",
        "ops",
        [
            (by_rate("offerstream_unknown_fields_total", "source"), "unknown fields: {{source}}"),
            (by_rate("offerstream_events_lost_total", "pod"), "lost to retention: {{pod}}"),
        ],
        "Fields outside the contract, ignored; events that retention deleted before they were applied.",
    ),
    (
        "Time of a stage, an event",
        "s",
        [
            (
                by_rate("offerstream_stage_seconds_sum", "stage")
                + ' / scalar(sum(rate(offerstream_events_total{job="$job"}[$__rate_interval])))',
                "{{stage}}",
            )
        ],
        "Where the time goes.",
    ),
    (
        "Records in a batch",
        "short",
        [
            (quantile(0.5, "offerstream_batch_rows"), "p50"),
            (quantile(0.99, "offerstream_batch_rows"), "p99"),
        ],
        "Near the setting batch_rows the workers are behind.",
    ),
    (
        "Event loop held",
        "s",
        [
            (quantile(0.99, "offerstream_loop_held_seconds"), "p99 of turns over 1 ms"),
        ],
        "Should stay under 20 ms.",
    ),
    (
        "Offers that do not fit",
        "short",
        [(selected("offerstream_offers_odd", "what"), "{{what}}")],
        "Redemptions of offers that nobody knows, orders whose discount is another one, minor units beyond a promise.",
    ),
    ("Rows", "short", [(selected("offerstream_rows", "where"), "{{where}}")], "In memory, and in RocksDB."),
    ("Packed row", "bytes", [(selected("offerstream_row_bytes", "pod", "avg"), "{{pod}}")], ""),
    (
        "Restore",
        "ops",
        [
            (by_rate("offerstream_restore_rows_total", "pod"), "rows/s {{pod}}"),
            (selected("offerstream_restoring", "pod"), "partitions {{pod}}"),
        ],
        "While partitions are taken over.",
    ),
    (
        "Model in force",
        "short",
        [
            (f"{selected('offerstream_model_info', 'hash')} > 0", "{{hash}}"),
            (by_rate("offerstream_model_refused_total", "reason"), "refused: {{reason}}"),
        ],
        "Workers with each model. More than one for long: some did not take the new one.",
    ),
    (
        "Models at work",
        "ops",
        [
            ('sum by (hash) (deriv(offerstream_model_scored{job="$job"}[$__rate_interval]))', "scored/s {{hash}}"),
            (f"{selected('offerstream_challenger_info', 'hash, mode')} > 0", "on trial: {{hash}} {{mode}}"),
            (by_rate("offerstream_model_withdrawn_total", "fault"), "withdrawn: {{fault}}"),
        ],
        "Who scores how much, who is on trial, and what workers rolled back.",
    ),
    (
        "Shadow",
        "short",
        [
            (
                'sum(offerstream_shadow{job="$job",what="sum"}) / sum(offerstream_shadow{job="$job",what="events"})',
                "mean difference",
            ),
            ('max(offerstream_shadow{job="$job",what="max"})', "largest difference"),
        ],
        "A challenger's scores against the champion's, on the same events.",
    ),
    (
        "Drift",
        "short",
        [
            (selected("offerstream_drift_psi", "of", "max"), "{{of}}"),
            (by_rate("offerstream_retrain_wanted_total", "pod"), "asked for a successor: {{pod}}"),
        ],
        "Population stability index against the training data: from 0.25 on the world has moved.",
    ),
    ("Memory", "bytes", [(selected("process_resident_memory_bytes", "pod"), "{{pod}}")], ""),
    ("Processor", "short", [(by_rate("process_cpu_seconds_total", "pod"), "{{pod}}")], "Cores."),
]

WIDTH, HEIGHT, COLUMNS = 8, 8, 3


def dashboard_text() -> str:
    """The Grafana dashboard."""
    source = {"type": "prometheus", "uid": "${source}"}
    panels: list[dict[str, Any]] = []
    for n, (title, unit, queries, description) in enumerate(PANELS):
        panels.append(
            {
                "id": n + 1,
                "type": "timeseries",
                "title": title,
                "description": description,
                "datasource": source,
                "gridPos": {
                    "x": n % COLUMNS * WIDTH,
                    "y": n // COLUMNS * HEIGHT,
                    "w": WIDTH,
                    "h": HEIGHT,
                },
                "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
                "targets": [
                    {"refId": chr(ord("A") + i), "datasource": source, "expr": query, "legendFormat": legend}
                    for i, (query, legend) in enumerate(queries)
                ],
            }
        )
    variables = [
        {"name": "source", "type": "datasource", "query": "prometheus", "label": "Data source"},
        {
            "name": "job",
            "type": "query",
            "label": "Job",
            "datasource": source,
            "query": {"query": "label_values(offerstream_rows, job)", "refId": "job"},
            "refresh": 1,
        },
    ]
    dashboard = {
        "uid": "offerstream",
        "title": "Offerstream",
        "tags": ["offerstream"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": variables},
        "panels": panels,
    }
    return json.dumps(dashboard, indent=2) + "\n"


def main() -> None:
    """Write both files."""
    SCHEMA.write_text(schema_text())
    DASHBOARD.write_text(dashboard_text())


if __name__ == "__main__":
    main()
