"""Open MPI's allreduce over slow links: its own choice of algorithm, and the rules hvdkit gives it.

    python benchmarks/mpi_allreduce.py [--hosts 3 4] [--rate 1gbit] [--rounds 3]

Network namespaces are the hosts (namespaces.py; it needs root), a rank on each; own choice and
rules take turns. Printed is the bus bandwidth (what a link carries, 2 (n - 1) / n of size over
time) as a share of the rate.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

import machine
from launching import run_a_rank_each
from namespaces import Host, hosts
from rich import box
from rich.console import Console
from rich.table import Table

from hvdkit.bench.units import bandwidth, in_words

CHOICES = {"own": {"OMPI_MCA_coll_tuned_use_dynamic_rules": "0"}, "hvdkit's": {}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--hosts", nargs="+", type=int, default=[3, 4], metavar="N")
    parser.add_argument("--rate", default="1gbit", help="of each link, as tc has it (1gbit)")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    console = Console(width=100, highlight=False)
    console.print(", ".join(f"{name} {value}" for name, value in machine.describe().items()))
    table = Table(title=f"share of {options.rate}", title_justify="left", box=box.SIMPLE_HEAD)
    for heading in ("hosts", "size", *CHOICES):
        table.add_column(heading, justify="right")
    for count in options.hosts:
        found: dict[str, list[list[dict]]] = {name: [] for name in CHOICES}
        with hosts(count, rate=options.rate) as made:
            for _ in range(options.rounds):
                for name, env in CHOICES.items():
                    found[name].append(_sweep(made, env))
        for i, first in enumerate(found["own"][0]):
            cells = [_cell([sweep[i] for sweep in sweeps], options) for sweeps in found.values()]
            table.add_row(str(count), in_words(first["bytes"]), *cells)
    console.print(table)


def _sweep(made: list[Host], env: dict[str, str]) -> list[dict]:
    with tempfile.TemporaryDirectory(prefix="hvdkit-bench-") as folder:
        file = Path(folder) / "measured.json"
        command = [sys.executable, "-m", "hvdkit", "bench", "allreduce", "--only", "mpi"]
        command += ["--smallest", "256KiB", "--largest", "16MiB", "--factor", "8"]
        run_a_rank_each(
            made,
            [*command, "--seconds", "1", "--json", str(file)],
            log=Path(folder) / "log",
            timeout=300,
            what=f"the sweep on {len(made)} hosts",
            env=env,
        )
        return list(json.loads(file.read_text())["rows"])


def _cell(rows: list[dict], options: argparse.Namespace) -> str:
    shares = [row["mpi"]["bus_bandwidth"] / bandwidth(options.rate) for row in rows]
    return f"{statistics.median(shares):.2f} ({min(shares):.2f} to {max(shares):.2f})"


if __name__ == "__main__":
    main()
