"""The machine, the commit, and the table at the end."""

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

WINDOW_MODEL = ", a window model"
"""Behind the name of a job of ours that was done with one."""

ROOT = Path(__file__).resolve().parent.parent.parent


def machine() -> str:
    """What was measured on, in a line."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    memory_gib = round(psutil.virtual_memory().total / 2**30)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    return f"{cores} cores of {model}, {memory_gib} GiB, {system}"


def commit() -> str:
    """The commit, marked where files have changed since."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"


def show(result: dict[str, Any], console: Console) -> None:
    """Both systems side by side; then where the time goes; then latency."""
    throughput = [row for row in result["rows"] if "events_per_s" in row and "latency_ms" not in row]
    peers = {row["job"]: row for row in throughput if row["system"] == "faust"}
    console.print(f"{result['machine']}; commit {result['commit']}; seed {result['seed']}", highlight=False)
    table = Table("job", title="Throughput")
    for column in (
        "guarantee",
        "events/s",
        "plain Faust",
        "ratio",
        "row, B",
        "written, B/event",
        "RSS, MB",
        "Faust: row, B",
        "RSS, MB",
    ):
        table.add_column(column, justify="right")
    for row in throughput:
        if row["system"] != "offerstream":
            continue
        # A hot part is ours; plain Faust is compared on the same users.
        peer = peers.get(row["job"].split(", hot part", 1)[0])
        written = row["written_bytes_per_event"]
        table.add_row(
            row["job"],
            row["guarantee"],
            f"{row['events_per_s']:,}",
            f"{peer['events_per_s']:,}" if peer else "-",
            f"{row['events_per_s'] / peer['events_per_s']:.1f}" if peer else "-",
            f"{row['row_bytes']:,}",
            "-" if written is None else f"{written:,}",
            f"{row['rss_mb']:,}",
            f"{peer['row_bytes']:,}" if peer else "-",
            f"{peer['rss_mb']:,}" if peer else "-",
        )
    if throughput:
        console.print(table)
    for system in ("offerstream", "faust", "kafka-streams"):
        rows = [row for row in throughput if row["system"] == system]
        if not rows:
            continue
        stages = list(rows[0]["us_per_event"])
        table = Table("job", title=f"Microseconds an event: {system}")
        for stage in stages:
            table.add_column(stage, justify="right")
        for row in rows:
            table.add_row(
                f"{row['job']}, {row['guarantee']}", *(f"{row['us_per_event'][stage]:.2f}" for stage in stages)
            )
        console.print(table)
    _show_lines(result["rows"], console)


def _show_lines(rows: list[dict[str, Any]], console: Console) -> None:
    """What exactly once costs, Kafka Streams beside ours, restores and restarts, latency, and what decisions cost."""
    rates = {(row["job"], row["guarantee"]): row["events_per_s"] for row in rows if "us_per_event" in row}
    for (job, guarantee), rate in rates.items():
        if guarantee == "exactly_once" and (job, "at_least_once") in rates:
            share = rate / rates[job, "at_least_once"]
            console.print(f"{job}: exactly_once reaches {share:.0%} of at_least_once's events/s")
    for row in rows:
        who = f"{row['system']}, {row.get('guarantee', '')}"
        if row["system"] == "kafka-streams" and "us_per_event" in row:
            beside = [r for r in rows if r["system"] == "offerstream" and _is_beside(r, row)]
            ratios = ", ".join(
                f"{r['network']}: {r['events_per_s'] / row['events_per_s']:.1f} times that" for r in beside
            )
            console.print(f"{who}: {row['job']}: {row['events_per_s']:,} events/s; offerstream with {ratios}")
        if "restore_s" in row:
            rate = f"{row['rows_per_s']:,} rows/s, {row['mb_per_s']:g} MB/s"
            console.print(f"{who}: {row['job']}: {row['restore_s']:g} s, {rate}; ready after {row['ready_s']:g} s")
        if "tail_rows" in row:
            tail = f"{row['tail_rows']:,} changelog records in {row['tail_s']:g} s of them"
            console.print(f"{who}: {row['job']}: ready after {row['ready_s']:g} s, {tail}")
        if "latency_ms" in row:
            p50, p99 = row["latency_ms"]["p50"], row["latency_ms"]["p99"]
            batch = f", {row['batch_ms']:g} ms a batch" if "batch_ms" in row else ""
            console.print(f"{who}: {row['job']}: p50 {p50:g} ms, p99 {p99:g} ms{batch} (n = {row['events']:,})")
        if "decisions_per_s" in row:
            mean = f"{row['eligible_campaigns_mean']} campaigns eligible for a trigger"
            console.print(f"{row['job']}: {row['decisions_per_s']:,} decisions/s; {mean} (n = {row['decisions']:,})")


def _is_beside(ours: dict[str, Any], peer: dict[str, Any]) -> bool:
    """Whether the same job, with either kind of model."""
    job = str(peer["job"])
    same = ours["guarantee"] == peer["guarantee"] if "us_per_event" in ours else False
    return same and ours["job"] in (job, f"{job}{WINDOW_MODEL}")
