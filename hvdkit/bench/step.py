"""`hvdkit bench step`: runs a recipe's own program with a callback that takes its steps apart."""

from __future__ import annotations

import argparse
import difflib
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hvdkit.bench import jobs
from hvdkit.bench.measure import steps_needed
from hvdkit.bench.measured import summarize
from hvdkit.bench.tables import print_table, step_notes, step_table
from hvdkit.errors import HvdkitError
from hvdkit.gradients.compression.named import compression_node, compressions
from hvdkit.launch.environment import current_job


def run(parsed: argparse.Namespace) -> int:
    """Measure, print, write."""
    measured = measure(parsed, encodings=chosen(parsed) if parsed.json else ())
    print_table(step_table(measured))
    print("\n".join(step_notes(measured)))
    if parsed.json:
        parsed.json.write_text(json.dumps(measured, indent=1) + "\n")
    return 0


def chosen(parsed: argparse.Namespace) -> tuple[str, ...]:
    """The compressions to encode with. Raises `HvdkitError` for one that there is not."""
    for name in parsed.compressions or ():
        compression_node(name)
    return parsed.compressions or tuple(compressions())


def measure(parsed: argparse.Namespace, *, encodings: Sequence[str]) -> dict[str, Any]:
    """Run the recipe on all ranks and alone, turn about, and sum up."""
    if current_job().launcher != "none":
        raise HvdkitError(
            "this starts its ranks itself: leave the launcher out and say -np N (and -H HOSTS)"
        )
    program = find_program(parsed.program)
    options = {"steps": parsed.steps, "rounds": 1}
    together, alone = [], []
    for number in range(parsed.rounds):
        with tempfile.TemporaryDirectory(prefix="hvdkit-bench-") as name:
            folder = Path(name)
            command = measuring(
                program, parsed.overrides, folder, encodings=() if number else encodings, **options
            )
            if parsed.np > 1:
                command = jobs.under_launcher(command, ranks=parsed.np, hosts=parsed.hosts)
            together.append(_result(command, folder, parsed.timeout, f"{parsed.np} ranks"))
        with tempfile.TemporaryDirectory(prefix="hvdkit-bench-") as name:
            folder = Path(name)
            share = [*parsed.overrides, *_share(together[0])]
            command = measuring(program, share, folder, encodings=(), **options)
            if parsed.np > 1:
                alone.append(_result(command, folder, parsed.timeout, "one process alone"))
    return summarize(together, alone)


def _share(together: dict[str, Any]) -> list[str]:
    """What gives one process alone the batch and the threads of one of the ranks."""
    batch = max(1, together["batch_size"] // together["workers"])
    return [
        f"data.batch_size={batch}",
        "data.batch_size_per_worker=null",
        f"framework.threads={together['threads'] or 'null'}",
    ]


def measuring(
    program: Path,
    overrides: Sequence[str],
    folder: Path,
    *,
    steps: int,
    rounds: int,
    encodings: Sequence[str],
) -> list[str]:
    """The command of a rank that measures and leaves `measured.json` in `folder`."""
    needed = steps_needed(steps, rounds)
    return [
        sys.executable,
        str(program),
        *overrides,
        f"hydra.run.dir={folder / 'run'}",
        "trainer.num_epochs=null",
        f"trainer.num_steps={needed}",
        f"trainer.log_every={needed}",
        "trainer.eval_every=null",
        "trainer.checkpoint_every=null",
        "trainer.resume=false",
        "~callbacks",
        "+callbacks.measure._target_=hvdkit.bench.measure.Measure",
        f"+callbacks.measure.file={folder / 'measured.json'}",
        f"+callbacks.measure.steps={steps}",
        f"+callbacks.measure.rounds={rounds}",
        f"+callbacks.measure.encodings=[{','.join(encodings)}]",
    ]


def _result(command: list[str], folder: Path, timeout: float, what: str) -> dict[str, Any]:
    if sys.stderr.isatty():
        print(f"measuring {what} ...", file=sys.stderr, flush=True)
    here = os.pathsep.join(filter(None, (os.getcwd(), os.environ.get("PYTHONPATH"))))
    jobs.run(
        command, log=folder / "log", timeout=timeout, env={"PYTHONPATH": here}, what=f"{what}:"
    )
    path = folder / "measured.json"
    if not path.exists():
        raise HvdkitError(
            f"{command[-1]} left no measurement: is it a program with hvdkit's @recipe?"
        )
    return dict(json.loads(path.read_text()))


def find_program(given: str) -> Path:
    """A recipe's program, by its path or by its name in ./recipes."""
    path = Path(given)
    if path.suffix == ".py" and path.is_file():
        return path.absolute()
    known = {file.stem: file for file in sorted(Path("recipes").glob("*.py"))}
    if given in known:
        return known[given].absolute()
    near = difflib.get_close_matches(given, known, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    names = f"; ./recipes has {', '.join(known)}" if known else "; there is no ./recipes here"
    raise HvdkitError(f"no recipe {given}{hint}: give a program's path{names}")
