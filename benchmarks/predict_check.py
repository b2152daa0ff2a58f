"""How far `hvdkit bench predict` is from what is measured, on hosts that can be had here.

    python benchmarks/predict_check.py [--hosts 2 4] [--rates 100mbit 1gbit] [--compressions ...]

Network namespaces are the hosts (namespaces.py; it needs root). One job takes steps with and
without communication, in turns: what is predicted from the latter and the nominal rate of the
links is set against the former. So both have the same load on the cores, and the prediction
sees no measured communication. The latency is half of a round trip, measured over the link.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from argparse import Namespace
from pathlib import Path

import machine
from launching import HERE
from namespaces import Host, hosts
from rich import box
from rich.console import Console
from rich.table import Table

from hvdkit.bench import jobs
from hvdkit.bench.measured import summarize, work
from hvdkit.bench.step import measuring
from hvdkit.bench.units import bandwidth
from hvdkit.gradients.cost import Cluster, Link, predict

# Hidden layers such that a step's messages take the links some tenths of a second.
SIZES = {"100mbit": "[1024,512]", "1gbit": "[2048,2048,1024]"}

# A round trip of one byte, and the time of a long transfer, between two hosts.
_SERVE = """
import socket
server = socket.create_server(("", 29500)); print("ready", flush=True)
peer, _ = server.accept(); peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
while data := peer.recv(1): peer.sendall(data)
"""
_ASK = """
import socket, statistics, sys, time
peer = socket.create_connection((sys.argv[1], 29500))
peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
times = []
for _ in range(200):
    start = time.perf_counter(); peer.sendall(b"x"); peer.recv(1)
    times.append(time.perf_counter() - start)
print(statistics.median(times))
"""


def main() -> None:
    options = _options()
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    console = Console(width=110, highlight=False)
    console.print(", ".join(f"{name} {value}" for name, value in machine.describe().items()))
    table = Table(title="a step, measured and predicted", title_justify="left", box=box.SIMPLE_HEAD)
    for heading in ("hosts", "link", "compression"):
        table.add_column(heading)
    for heading in ("latency us", "compute ms", "predicted ms", "measured ms", "error", "load"):
        table.add_column(heading, justify="right")
    rows = []
    for rate in options.rates:
        for count in options.hosts:
            with hosts(count, rate=rate) as made:
                latency = _latency(made)
                for compression in options.compressions:
                    row = check(made, rate, compression, latency, options)
                    rows.append(row)
                    table.add_row(*_cells(row))
                    print(json.dumps(row), file=sys.stderr, flush=True)
    console.print(table)
    worst = max(abs(row["error"]) for row in rows)
    console.print(f"largest error: {worst:.0%}")


def _options() -> Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--hosts", nargs="+", type=int, default=[2, 4], metavar="N")
    parser.add_argument("--rates", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--compressions", nargs="+", default=["none", "fp16", "int8"])
    parser.add_argument("--hidden", help="layers of the MLP, as in [2048,1024] (by the rate)")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=300)
    return parser.parse_args()


def check(
    made: list[Host], rate: str, compression: str, latency: float, options: Namespace
) -> dict:
    """Measure one setting, predict it, and compare."""
    overrides = [
        f"model.hidden={options.hidden or SIZES[rate]}",
        f"data.batch_size={32 * len(made)}",
    ]
    overrides += [f"compression={compression}", "framework.threads=1", "trainer.seed=0"]
    places = ",".join(f"{host.name}:1" for host in made)
    with tempfile.TemporaryDirectory(prefix="hvdkit-bench-") as name:
        folder = Path(name)
        command = measuring(
            HERE.parent / "recipes/vision.py",
            overrides,
            folder,
            steps=options.steps,
            rounds=options.rounds,
            encodings=[compression],
        )
        launch = jobs.under_launcher(command, ranks=len(made), hosts=places)
        jobs.run(
            made[0].command(launch, cwd=HERE.parent),
            log=folder / "log",
            timeout=options.timeout,
            env={"OMP_NUM_THREADS": "1"},
            what=f"{len(made)} hosts at {rate}",
        )
        measured = summarize([json.loads((folder / "measured.json").read_text())], [])
    cluster = Cluster(
        workers=len(made),
        network=Link(latency, bandwidth(rate)),
        sum_rate=measured["sum_rate"],
    )
    found = predict(work(measured, compression, cluster.workers), cluster)
    seconds = measured["step"]["seconds"]
    return {
        "hosts": len(made),
        "rate": rate,
        "compression": compression,
        "latency": latency,
        "compute": measured["silent"]["seconds"],
        "predicted": found.seconds,
        "measured": seconds,
        "error": found.seconds / seconds - 1,
        "load": machine.load(),
        "communication_alone": measured["communication"],
        "predicted_communication": found.wire_seconds,
    }


def _cells(row: dict) -> list[str]:
    times = [f"{1e3 * row[name]:.1f}" for name in ("compute", "predicted", "measured")]
    where = [str(row["hosts"]), row["rate"], row["compression"], f"{1e6 * row['latency']:.0f}"]
    return [*where, *times, f"{row['error']:+.0%}", row["load"]]


def _latency(made: list[Host]) -> float:
    """Half a round trip between two hosts."""
    with made[0].popen([sys.executable, "-c", _SERVE], stdout=-1) as server:
        try:
            server.stdout.readline()
            asked = made[1].run([sys.executable, "-c", _ASK, made[0].address], timeout=60)
        finally:
            server.kill()
    return float(asked.stdout) / 2


if __name__ == "__main__":
    main()
