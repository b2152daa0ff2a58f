"""`hvdkit doctor`: gather facts, judge them, show the verdicts.

`facts` looks (in child processes where a broken library could take the interpreter down),
`judge` turns facts into checks and is pure, `render` prints. Imports hvdkit.install.
"""

from __future__ import annotations

import os

from rich.console import Console

from hvdkit.install.doctor.facts import gather
from hvdkit.install.doctor.judge import judge
from hvdkit.install.doctor.render import as_json as render_json
from hvdkit.install.doctor.render import show

# Where there is no terminal nobody folds lines; a log or a mail is read at this width.
WIDTH_WITHOUT_TERMINAL = 100


def run(*, as_json: bool, ranks: int | None) -> int:
    """Examine and report; return 1 if training would fail, else 0."""
    console = Console()
    if as_json:
        checks = judge(gather(ranks))
        print(render_json(checks))
    else:
        if not console.is_terminal and "COLUMNS" not in os.environ:
            console.width = WIDTH_WITHOUT_TERMINAL
        with console.status("Examining: torch and TensorFlow take some seconds to load"):
            checks = judge(gather(ranks))
        show(checks, console)
    return 1 if any(check.verdict == "fail" for check in checks) else 0
