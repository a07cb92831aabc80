"""The report as one page that needs nothing else: figures as tables, pictures inside."""

import base64
from html import escape
from typing import Any

from training.report.gather import Gathered
from training.report.pictures import PICTURES

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#22303c;max-width:70em;margin:2em auto;padding:0 1em}
h1{font-size:1.5em}h2{font-size:1.15em;margin-top:2em;border-bottom:1px solid #d5dbe1}
img{max-width:100%;height:auto}table{border-collapse:collapse;margin:.5em 0}
td,th{padding:.2em .8em;text-align:right;border-bottom:1px solid #e6eaee}td:first-child,th:first-child{text-align:left}
.no{color:#b4462f}.left{color:#6b7785}
"""
_FIGURES = {"auc": "AUC", "pr_auc": "PR-AUC", "log_loss": "log loss", "brier": "Brier"}


def page(of: Gathered, pictures: dict[str, bytes]) -> str:
    """HTML.

    Args:
        of: what was gathered.
        pictures: PNG by name, those that there are.
    """
    metadata, said = of.model.metadata, of.evaluation
    about = (
        f"P(purchase within {metadata.horizon_ms / 3_600_000:g} h), judged on {said['events']} decision points of "
        f"{said['users']} users; {said['base_rate']:.4f} of them are followed by a purchase. Users seen in training: "
        f"{said['users_seen_in_training']}. Intervals are 95 %, by a bootstrap over users."
    )
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>Model report</title>",
        f"<style>{_STYLE}</style></head><body>",
        f"<h1>Model {escape(of.model.hex[:12])}, {escape(metadata.architecture)}</h1><p>{escape(about)}</p>",
        _figures(of),
        _gates(of.metrics),
    ]
    for name, (heading, _, needs) in PICTURES.items():
        parts.append(f"<h2>{escape(heading)}</h2>")
        if name in pictures:
            encoded = base64.b64encode(pictures[name]).decode("ascii")
            parts.append(f"<img alt='{escape(heading)}' src='data:image/png;base64,{encoded}'>")
        else:
            parts.append(f"<p class='left'>Left out: {escape(needs)}.</p>")
    parts.append("</body></html>\n")
    return "\n".join(parts)


def _figures(of: Gathered) -> str:
    yardsticks = {name: one for name, one in of.evaluation["baselines"].items() if isinstance(one, dict)}
    rows = {"this model": of.evaluation}
    if of.champion is not None:
        rows[f"champion {of.champion.sha256[:12]}"] = of.champion.evaluation
    rows |= yardsticks
    head = "".join(f"<th>{words}</th>" for words in ("", *_FIGURES.values()))
    body = "".join(
        f"<tr><td>{escape(name)}</td>{''.join(f'<td>{_interval(one[figure])}</td>' for figure in _FIGURES)}</tr>"
        for name, one in rows.items()
    )
    return f"<h2>Figures</h2><table><tr>{head}</tr>{body}</table>"


def _interval(one: dict[str, Any]) -> str:
    if one["value"] is None:
        return "not known"
    low, high = one["ci"]
    return f"{one['value']:.4f}" + ("" if low is None else f" ({low:.4f} to {high:.4f})")


def _gates(metrics: dict[str, Any]) -> str:
    gates = metrics.get("gates", [])
    if not gates:
        return ""
    rows = "".join(
        f"<tr><td>{escape(gate['name'])}</td><td>{gate['figure']:g}</td><td>{gate['limit']:g}</td>"
        f"<td class='{'yes' if gate['passed'] else 'no'}'>{'passed' if gate['passed'] else 'not passed'}</td></tr>"
        for gate in gates
    )
    return f"<h2>Gates</h2><table><tr><th></th><th>figure</th><th>limit</th><th></th></tr>{rows}</table>"
