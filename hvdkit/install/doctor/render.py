"""Showing the doctor's checks: a table that folds at any width, or JSON. Imports rich."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hvdkit.install.doctor.judge import VERDICTS, Check

STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def show(checks: Sequence[Check], console: Console) -> None:
    """Print one row a check, its remedy beneath its finding, and the sum at the end.

    Two narrow columns stay whole and the last one folds, so nothing is ever cut off.
    """
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in checks:
        cell = Text(check.finding)
        if check.remedy:
            cell.append(f"\n-> {check.remedy}", style=STYLES[check.verdict])
        table.add_row(Text(check.verdict, style=STYLES[check.verdict]), Text(check.name), cell)
    console.print(table)
    count = Counter(check.verdict for check in checks)
    worst = worst_verdict(checks)
    console.print(Text(f"\n{CONCLUSIONS[worst].format(**count)}", style=STYLES[worst]))


CONCLUSIONS = {
    "ok": "All is well: {ok} checks.",
    "warn": "Training works. Warnings: {warn}.",
    "fail": "Training would fail. Lines marked fail: {fail}.",
}


def as_json(checks: Sequence[Check]) -> str:
    """The same, for programs: the worst verdict, and the checks in order."""
    content = {"verdict": worst_verdict(checks), "checks": [asdict(check) for check in checks]}
    return json.dumps(content, indent=2)


def worst_verdict(checks: Sequence[Check]) -> str:
    return max((check.verdict for check in checks), key=VERDICTS.index, default="ok")
