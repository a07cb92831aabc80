"""Figures as tables on the terminal."""

from typing import Any

from rich.console import Console
from rich.table import Table


def print_evaluation(console: Console, found: dict[str, Any]) -> None:
    """The figures of an evaluation and of its yardsticks."""
    table = Table("", "AUC", "PR-AUC", "log loss", "Brier", "AUC of the model above it")
    yardsticks = {name: said for name, said in found["baselines"].items() if isinstance(said, dict)}
    for name, said in {found["model"]["architecture"]: found, **yardsticks}.items():
        words = [_interval(said[figure]) for figure in ("auc", "pr_auc", "log_loss", "brier")]
        table.add_row(name, *words, _interval(said["difference"]["auc"]) if "difference" in said else "")
    console.print(table)
    console.print(
        f"{found['events']} decision points of {found['users']} users, {found['base_rate']:.4f} with a purchase"
    )


def _interval(said: dict[str, Any]) -> str:
    if said["value"] is None or said["ci"][0] is None:
        return ""
    return f"{said['value']:.4f} ({said['ci'][0]:.4f} to {said['ci'][1]:.4f})"
