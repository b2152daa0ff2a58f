"""Step time beside what a user would pick instead, printed as ratios.

    python benchmarks/step.py [--framework torch|tensorflow] [--models mlp resnet18 linear60]

Each round runs every contender once, one after the other, so that a machine that slows down
slows all of them; a ratio is the median over rounds of hvdkit's step over the peer's in the
same round. Contenders whose ranks end with different weights, or whose losses differ from
the others', did other work: that is an error, not a result.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

import launching
import machine
from rich import box
from rich.console import Console
from rich.table import Table
from workload import MODELS

PEERS = {
    "torch": {
        "single": "one process alone",
        "ddp": "torch DDP, gloo",
        "ddp_views": "its gradient_as_bucket_view",
        "horovod": "its DistributedOptimizer",
        "lightning": "its Trainer, DDP gloo",
        "fabric": "Lightning Fabric, DDP gloo",
        "accelerate": "its loop, DDP gloo",
    },
    "tensorflow": {
        "single": "one process alone",
        "mwms": "MultiWorkerMirrored, ring",
        "horovod": "its DistributedGradientTape",
    },
}
# What a peer needs beside the framework: `pip install -e '.[bench]'` has them.
NEEDS = {"lightning": "lightning", "fabric": "lightning", "accelerate": "accelerate"}
MODELS_OF = {"torch": ("mlp", "resnet18", "linear60"), "tensorflow": ("mlp", "linear60")}
_LOSS_TOLERANCE = 0.01  # relative; sums in another order drift apart by some 1e-4


def main() -> None:
    options = _options()
    # So that a driver that is told to end takes its ranks with it.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    console = Console(width=100, highlight=False)
    console.print(", ".join(f"{name} {value}" for name, value in machine.describe().items()))
    results = []
    for model in options.models:
        rounds = [_round(options, model, i) for i in range(options.rounds)]
        results.append({"model": model, "rounds": rounds})
        console.print(_table(options, model, rounds))
    if options.json:
        report = {"machine": machine.describe(), "options": vars(options), "results": results}
        options.json.write_text(json.dumps(report, indent=1, default=str) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--framework", choices=PEERS, default="torch")
    parser.add_argument("--models", nargs="+", choices=MODELS, help="default: all it has")
    parser.add_argument("--peers", nargs="+", help="default: all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20, help="timed steps a round (default: 20)")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=180, help="seconds a contender may take")
    parser.add_argument("--json", type=Path, help="write every step time here")
    options = parser.parse_args()
    options.models = options.models or MODELS_OF[options.framework]
    options.peers = options.peers or _installed(PEERS[options.framework])
    for kind, given, known in (
        ("model", options.models, MODELS_OF[options.framework]),
        ("peer", options.peers, PEERS[options.framework]),
    ):
        if unknown := set(given) - set(known):
            parser.error(f"{options.framework} has no {kind} {', '.join(sorted(unknown))}")
    return options


def _installed(peers: Iterable[str]) -> list[str]:
    """The peers that can be run here; the others are named."""
    absent = {name for name in peers if name in NEEDS and not find_spec(NEEDS[name])}
    if absent:
        print(f"not installed: {', '.join(sorted(absent))} (pip install -e '.[bench]')")
    return [name for name in peers if name not in absent]


def _round(options: argparse.Namespace, model: str, number: int) -> dict:
    """Run every contender once; what each measured, by name."""
    found: dict = {"load": machine.load(), "contenders": {}}
    for name in [*options.peers, "hvdkit"]:
        _say(f"{model}: round {number + 1} of {options.rounds}, {name}")
        found["contenders"][name] = launching.run(
            options.framework,
            name,
            model,
            ranks=options.ranks,
            steps=options.steps,
            timeout=options.timeout,
        )
    _say("")
    _check_same_work(found["contenders"])
    return found


def _say(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def _check_same_work(contenders: dict[str, list[dict]]) -> None:
    """Raise unless all ranks of each hold the same weights, and all had the same loss."""
    losses = {}
    for name, ranks in contenders.items():
        if name == "single":  # sees rank 0's batches only
            continue
        check_same_weights(name, ranks)
        losses[name] = statistics.mean(rank["loss"][1] for rank in ranks)
    reference = losses["hvdkit"]
    for name, loss in losses.items():
        if abs(loss - reference) > _LOSS_TOLERANCE * reference:
            raise SystemExit(f"{name} trains otherwise: loss {loss:.5f}, hvdkit {reference:.5f}")


def check_same_weights(name: str, ranks: list[dict]) -> None:
    """Raise unless the ranks trained together."""
    if len({rank["checksum"] for rank in ranks}) > 1:
        raise SystemExit(f"{name}: the ranks end with different weights")
    if any(rank["size"] != len(ranks) for rank in ranks):
        raise SystemExit(f"{name}: the ranks did not find each other")


def step_ms(ranks: list[dict]) -> float:
    """The median step of one run; a step takes what the ranks took on average."""
    return 1000 * statistics.median(
        statistics.mean(times) for times in zip(*(r["seconds"] for r in ranks), strict=True)
    )


def _table(options: argparse.Namespace, model: str, rounds: list[dict]) -> Table:
    times = {
        name: [step_ms(each["contenders"][name]) for each in rounds]
        for name in [*options.peers, "hvdkit"]
    }
    loads = ", ".join(each["load"] for each in rounds)
    table = Table(
        title=f"{options.framework}: {MODELS[model].title}, {options.ranks} ranks x 1 thread",
        caption=f"{options.rounds} rounds of {options.steps} steps; load average {loads}",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        caption_justify="left",
    )
    table.add_column("contender")
    table.add_column("what it is", no_wrap=True)
    for heading in ("ms", "range", "hvdkit / it", "spread"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, values in times.items():
        ratios = [own / other for own, other in zip(times["hvdkit"], values, strict=True)]
        table.add_row(
            name,
            PEERS[options.framework].get(name, ""),
            f"{statistics.median(values):.1f}",
            f"{min(values):.1f} to {max(values):.1f}",
            "" if name == "hvdkit" else f"{statistics.median(ratios):.2f}",
            "" if name == "hvdkit" else f"{min(ratios):.2f} to {max(ratios):.2f}",
        )
    return table


if __name__ == "__main__":
    main()
