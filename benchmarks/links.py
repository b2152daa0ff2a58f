"""Step time over a slow network, beside torch DDP over the same one.

    python benchmarks/links.py [--rate 1gbit] [--a-host 1] [--rounds 5]

Two hosts (network namespaces, namespaces.py; it needs root) on links of `--rate` of tc. As in
step.py contenders take turns round by round, with the same model, batches and threads. hvdkit's
compressed runs are set against DDP in fp32, its fp16 and bf16 against DDP's fp16 hook as well.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import sys
from pathlib import Path

import launching
import machine
from namespaces import hosts
from rich import box
from rich.console import Console
from rich.table import Table
from step import check_same_weights, step_ms
from workload import MODELS

CONF = Path(__file__).parent.parent / "conf"
DDP = {"ddp": "torch DDP, gloo, fp32", "ddp_fp16": "the same, its fp16 hook"}


def contenders() -> dict[str, str]:
    """Names for the workers, with what they are: what this version's config can choose."""
    found = dict(DDP)
    found["hvdkit"] = "hvdkit, fp32"
    for name in ("fp16", "bf16", "int8", "topk", "powersgd"):
        if (CONF / f"compression/{name}.yaml").exists():
            found[f"hvdkit:compression={name}"] = f"hvdkit, {name}"
    if (CONF / "strategy/hierarchical.yaml").exists():
        found["hvdkit:strategy=hierarchical"] = "hvdkit, fp32, hierarchical"
    return found


def main() -> None:
    options = _options()
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    console = Console(width=100, highlight=False)
    console.print(", ".join(f"{name} {value}" for name, value in machine.describe().items()))
    with hosts(2, rate=options.rate) as made:
        rounds = [_round(options, made, number) for number in range(options.rounds)]
    console.print(_table(options, rounds))
    if options.json:
        report = {"machine": machine.describe(), "options": vars(options), "rounds": rounds}
        options.json.write_text(json.dumps(report, indent=1, default=str) + "\n")


def _options() -> argparse.Namespace:
    known = contenders()
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rate", default="1gbit", help="of each link, as tc has it (1gbit)")
    parser.add_argument("--a-host", type=int, default=1, help="ranks a host (1)")
    parser.add_argument("--model", choices=MODELS, default="mlp")
    parser.add_argument("--contenders", nargs="+", choices=known, help="default: all that apply")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6, help="timed steps a round (6)")
    parser.add_argument("--timeout", type=float, default=300, help="seconds a contender may take")
    parser.add_argument(
        "--env", action="append", default=[], metavar="NAME=VALUE", help="set in hvdkit's jobs"
    )
    parser.add_argument("--json", type=Path, help="write every step time here")
    options = parser.parse_args()
    if options.contenders is None:
        inside = options.a_host > 1  # else a host has nothing to sum by itself
        options.contenders = [name for name in known if inside or "hierarchical" not in name]
    return options


def _round(options: argparse.Namespace, made, number: int) -> dict:
    found: dict = {"load": machine.load(), "contenders": {}}
    for name in options.contenders:
        if sys.stderr.isatty():
            print(f"round {number + 1} of {options.rounds}: {name}", file=sys.stderr)
        before = made[0].sent()
        ranks = launching.run_on_hosts(
            made,
            name,
            options.model,
            a_host=options.a_host,
            steps=options.steps,
            timeout=options.timeout,
            variables=options.env,
        )
        check_same_weights(name, ranks)
        found["contenders"][name] = {"ranks": ranks, "sent": made[0].sent() - before}
    return found


def _table(options: argparse.Namespace, rounds: list[dict]) -> Table:
    known = contenders()
    times = {
        name: [step_ms(each["contenders"][name]["ranks"]) for each in rounds]
        for name in options.contenders
    }
    loads = ", ".join(each["load"] for each in rounds)
    table = Table(
        title=f"{MODELS[options.model].title}; 2 hosts x {options.a_host}, {options.rate}",
        caption=f"{options.rounds} rounds of {options.steps} steps; load average {loads}",
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("contender", no_wrap=True)
    bases = [name for name in DDP if name in times]
    headings = ["ms", "range", *(f"to {known[name].rpartition(', ')[2]}" for name in bases)]
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for name, values in times.items():
        cells = [f"{statistics.median(values):.0f}", f"{min(values):.0f} to {max(values):.0f}"]
        for base in bases:
            ratios = [own / other for own, other in zip(values, times[base], strict=True)]
            spread = f"{min(ratios):.2f}-{max(ratios):.2f}"
            cells.append("" if name == base else f"{statistics.median(ratios):.2f} ({spread})")
        table.add_row(known[name], *cells)
    return table


if __name__ == "__main__":
    main()
