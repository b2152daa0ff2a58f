"""How far `hvdkit bench predict` is from what is measured, on hosts that can be had here.

    python benchmarks/predict_check.py [--hosts 2 4] [--rates 100mbit 1gbit] [--compressions ...]

Network namespaces are the hosts (namespaces.py; it needs root). One job takes steps with and
without communication, in turns: what is predicted from the latter and the links is set against the
former. So both have the same load on the cores, and the prediction sees no communication. Of a
link it takes what plain sockets find, as `iperf3` would on a cluster: half of a round trip, and
the rate at which all hosts send to their neighbours at once (0.95 of the nominal one is what
frames of 1500 bytes leave).
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import sys
import tempfile
from argparse import Namespace
from contextlib import ExitStack
from pathlib import Path

import machine
from launching import HERE, run_a_rank_each
from namespaces import Host, hosts
from rich import box
from rich.console import Console
from rich.table import Table

from hvdkit.bench.measured import summarize, work
from hvdkit.bench.step import measuring
from hvdkit.bench.units import bandwidth
from hvdkit.gradients.cost import Cluster, Link, predict

# Hidden layers such that a step's messages take the links some tenths of a second.
SIZES = {"100mbit": "[1024,512]", "1gbit": "[2048,2048,1024]"}

# A host's part: it answers the one before it in a ring, byte by byte, and takes its streams, while
# it asks the next and sends it streams. argv: its address, bytes a stream.
_MEASURE = """
import socket, statistics, sys, threading, time
address, size = sys.argv[1], int(sys.argv[2])
server = socket.create_server(("", 29500)); print("ready", flush=True); sys.stdin.readline()
after = socket.create_connection((address, 29500)); before, _ = server.accept()
for peer in (after, before): peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

def answer():
    for _ in range(200): before.sendall(before.recv(1))

answering = threading.Thread(target=answer); answering.start()
trips, rates, buffer = [], [], bytearray(2**18)
for _ in range(200):
    start = time.perf_counter(); after.sendall(b"x"); after.recv(1)
    trips.append(time.perf_counter() - start)
answering.join()
for _ in range(12):
    sending = threading.Thread(target=after.sendall, args=(bytes(size),))
    left, start = size, time.perf_counter(); sending.start()
    while left: left -= before.recv_into(buffer, min(left, len(buffer))) or sys.exit(1)
    sending.join(); rates.append(size / (time.perf_counter() - start))
print(statistics.median(trips) / 2, statistics.median(rates), flush=True); sys.stdin.readline()
"""
_STREAM_SECONDS = 0.1


def main() -> None:
    options = _options()
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    console = Console(width=110, highlight=False)
    console.print(", ".join(f"{name} {value}" for name, value in machine.describe().items()))
    table = Table(title="a step, measured and predicted", title_justify="left", box=box.SIMPLE_HEAD)
    for heading in ("hosts", "link", "compression"):
        table.add_column(heading)
    for heading in ("latency us", "Mbit/s", "compute ms", "predicted ms", "measured ms"):
        table.add_column(heading, justify="right")
    for heading in ("error", "load"):
        table.add_column(heading, justify="right")
    rows = []
    for rate in options.rates:
        for count in options.hosts:
            with hosts(count, rate=rate) as made:
                link = _link(made, bandwidth(rate))
                for compression in options.compressions:
                    row = check(made, rate, compression, link, options)
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


def check(made: list[Host], rate: str, compression: str, link: Link, options: Namespace) -> dict:
    """Measure one setting, predict it, and compare."""
    overrides = [
        f"model.hidden={options.hidden or SIZES[rate]}",
        # On all hosts together: they share the cores, which then have as much to compute.
        "data.batch_size=64",
    ]
    overrides += [f"compression={compression}", "framework.threads=1", "trainer.seed=0"]
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
        run_a_rank_each(
            made,
            command,
            log=folder / "log",
            timeout=options.timeout,
            what=f"{len(made)} hosts at {rate}",
            env={"OMP_NUM_THREADS": "1"},
        )
        measured = summarize([json.loads((folder / "measured.json").read_text())], [])
    cluster = Cluster(
        workers=len(made),
        network=link,
        sum_rate=measured["sum_rate"],
    )
    found = predict(work(measured, compression, cluster.workers), cluster)
    seconds = measured["step"]["seconds"]
    return {
        "hosts": len(made),
        "rate": rate,
        "compression": compression,
        "latency": link.latency,
        "bandwidth": link.bandwidth,
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
    where = [str(row["hosts"]), row["rate"], row["compression"]]
    where += [f"{1e6 * row['latency']:.0f}", f"{8e-6 * row['bandwidth']:.0f}"]
    return [*where, *times, f"{row['error']:+.0%}", row["load"]]


def _link(made: list[Host], nominal: float) -> Link:
    """What sockets find of the links: seconds of half a round trip, bytes a second, as medians."""
    after = made[1:] + made[:1]
    size = str(round(nominal * _STREAM_SECONDS))
    program = [sys.executable, "-c", _MEASURE]
    with ExitStack() as stack:
        parts = []
        for host, peer in zip(made, after, strict=True):
            part = host.popen([*program, peer.address, size], stdin=-1, stdout=-1)
            parts.append(stack.enter_context(part))
            stack.callback(part.kill)
        for part in parts:
            part.stdout.readline()
        for part in parts:
            part.stdin.write("all are ready\n")
            part.stdin.flush()
        found = [[float(word) for word in part.stdout.readline().split()] for part in parts]
    return Link(*(statistics.median(values) for values in zip(*found, strict=True)))


if __name__ == "__main__":
    main()
