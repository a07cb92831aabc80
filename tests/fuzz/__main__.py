"""`python -m tests.fuzz`: a million inputs to whatever reads bytes of others; each target in a process of its own.

A process that dies, by a signal or for want of memory, is a finding like an exception: its last inputs are named.
"""

import json
import resource
import secrets
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from tests.fuzz.engine import as_seeds, fuzz
from tests.fuzz.targets import ROOT, TARGETS

INPUTS_MIN = 100
MEMORY_BYTES_MAX = 6 << 30
"""Address space of a target's process: an input must not be able to ask for more."""


@click.command()
@click.option("--inputs", type=click.IntRange(INPUTS_MIN), default=1_000_000, show_default=True, help="In all.")
@click.option("--seed", type=int, help="Repeats a run.  [default: drawn, and printed]")
@click.option("--target", type=click.Choice(list(TARGETS)), help="One only, in this process.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=ROOT / "var" / "fuzz")
def main(inputs: int, seed: int | None, target: str | None, out: Path) -> None:
    """Fuzz, say what became of the inputs and which share of the lines they reached; exit code 1 for a finding."""
    seed = secrets.randbits(32) if seed is None else seed
    out.mkdir(parents=True, exist_ok=True)
    if target is not None:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX))
        with TemporaryDirectory() as folder:
            try:
                done = fuzz(target, inputs, seed, Path(folder))
            except BaseException:
                (out / f"{target}.finding.json").write_text((Path(folder) / f"{target}.current").read_text())
                raise
        (out / f"{target}.kept.json").write_text(as_seeds(done.kept))
        said = done._asdict() | {"kept": len(done.kept)}
        (out / f"{target}.json").write_text(json.dumps({"target": target, "seed": seed, **said}) + "\n")
        return
    click.echo(f"seed {seed}")
    names = "".join(f"{name:>9}" for name in ("inputs", "applied", "refused", "dead"))
    click.echo(f"{'target':18}{names}{'lines':>12}{'inputs/s':>10}{'MiB more':>10}")
    found = []
    for name, entry in TARGETS.items():
        share = round(inputs * entry.share)
        command = [
            "-m",
            "tests.fuzz",
            "--target",
            name,
            "--inputs",
            str(max(share, INPUTS_MIN)),
            "--seed",
            str(seed),
            "--out",
            str(out),
        ]
        ended = subprocess.run([sys.executable, *command], cwd=ROOT, check=False, capture_output=True, text=True)
        if ended.returncode:
            found.append(
                f"{name}: ended with {ended.returncode}; its inputs: {out / name}.finding.json\n{ended.stderr}"
            )
            click.echo(f"{name:18} a finding")
            continue
        r = json.loads((out / f"{name}.json").read_text())
        applied, refused, dead = r["outcomes"].values()
        lines = f"{r['lines_reached']}/{r['lines']}"
        click.echo(
            f"{name:18}{r['inputs']:9}{applied:9}{refused:9}{dead:9}{lines:>12}{r['inputs_per_s']:10.0f}"
            f"{r['growth_bytes'] / 2**20:10.1f}"
        )
    for text in found:
        click.echo(text, err=True)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
