"""What a step costs when a big table's gradient travels as rows: a small table beside a big one.

    python benchmarks/sparse_rows.py [--frameworks torch tensorflow] [--rows 100000 10000000]

Matrix factorisation of width 16, Adam, batches of 2048 pairs over 2 ranks; items come from the
whole table. Traffic is what a rank hands to collectives, and memory how far a rank's resident
size rises while it takes steps: both are to follow the rows that a batch touches, not the rows
that there are. `--dense ROWS` adds tables whose whole gradients travel, for comparison.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import sys
import threading
import time
from pathlib import Path

import launching
import machine
import numpy as np
import psutil
from rich import box
from rich.console import Console
from rich.table import Table
from workload import WARM_UP

USERS, WIDTH, BATCH = 100_000, 16, 2048
_BATCHES = 8  # per rank, gone over in turn


# ---- the ranks ---------------------------------------------------------------------------------


class Counted:
    """A Comm that adds up what this rank hands to it; `add` is given each tensor."""

    def __init__(self, comm, add):
        self._comm, self._add = comm, add

    def __getattr__(self, name):
        found = getattr(self._comm, name)
        if name not in ("allreduce", "all_gather"):
            return found

        def collective(x, **options):
            self._add(x)
            return found(x, **options)

        return collective


class PeakMemory(threading.Thread):
    """The largest resident size, in bytes, while it runs."""

    def __init__(self):
        super().__init__(daemon=True)
        self._process, self._done = psutil.Process(), threading.Event()
        self.start_bytes = self.peak = self._process.memory_info().rss

    def run(self):
        while not self._done.wait(0.002):
            self.peak = max(self.peak, self._process.memory_info().rss)

    def stop(self) -> int:
        self._done.set()
        self.join()
        return self.peak - self.start_bytes


def _batches(rows: int, rank: int, size: int) -> list[dict[str, np.ndarray]]:
    """A rank's part of each batch: pairs of any user and any item."""
    random = np.random.default_rng([0, rank])
    mine = BATCH // size
    return [
        {
            "user": random.integers(0, USERS, (mine, 1)),
            "item": random.integers(0, rows, (mine, 1)),
            "label": random.integers(0, 2, (mine, 1)).astype(np.float32),
            "weight": np.ones(mine, np.float32),
        }
        for _ in range(_BATCHES)
    ]


def _adapter(framework: str, rows: int, *, sparse: bool):
    """The adapter, and a function that tells the bytes handed to collectives so far."""
    from hvdkit.adapters import start
    from hvdkit.optimizers import Adam
    from hvdkit.strategies import AllReduce
    from hvdkit.tasks import ImplicitFeedback

    comm = start(framework, threads=1)
    if framework == "torch":
        from hvdkit.adapters.torch import TorchAdapter as made
        from hvdkit.models.recsys.torch_mf import MF

        total = np.zeros(1)

        def add(x):
            total[0] += x.numel() * x.element_size()

    else:
        import tensorflow as tf

        from hvdkit.adapters.tensorflow import TensorFlowAdapter as made
        from hvdkit.models.recsys.keras_mf import MF

        total = tf.Variable(tf.zeros(1, tf.float64))

        def add(x):  # in the step's graph, where sizes are known as it runs
            total.assign_add(tf.cast(tf.reshape(tf.size(x) * x.dtype.size, (1,)), tf.float64))

    adapter = made(
        model=MF(users=USERS, items=rows, dimension=WIDTH, sparse=sparse),
        task=ImplicitFeedback(),
        optimizer=Adam(lr=0.001),
        strategy=AllReduce(),
        comm=Counted(comm, add),
    )
    return adapter, comm, lambda: float(np.asarray(total)[0])


def work(framework: str, rows: str, kind: str, steps: str, out: str) -> None:
    """One rank: take steps, and write what they cost to OUT/rank-N.json."""
    adapter, comm, sent = _adapter(framework, int(rows), sparse=kind == "rows")
    batches = _batches(int(rows), comm.rank, comm.size)
    adapter.setup(seed=0, reference_count=BATCH, example=batches[0])
    for i in range(WARM_UP):
        adapter.train_step([batches[i % _BATCHES]], step=i, lr=0.001)
    comm.barrier()
    memory = PeakMemory()
    memory.start()
    before, seconds = sent(), []
    for i in range(WARM_UP, WARM_UP + int(steps)):
        start = time.perf_counter()
        adapter.train_step([batches[i % _BATCHES]], step=i, lr=0.001)
        seconds.append(time.perf_counter() - start)
    bytes_sent = (sent() - before) / int(steps)
    grown = memory.stop()
    comm.barrier()
    result = {
        "seconds": seconds,
        "bytes": bytes_sent,
        "memory": grown,
        "digest": adapter.weights_sha256(),
    }
    (Path(out) / f"rank-{comm.rank}.json").write_text(json.dumps(result))
    comm.close()


# ---- the driver --------------------------------------------------------------------------------


def main() -> None:
    options = _options()
    # So that a driver that is told to end takes its ranks with it.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    console = Console(width=100, highlight=False)
    console.print(", ".join(f"{name} {value}" for name, value in machine.describe().items()))
    cases = [("rows", rows) for rows in options.rows] + [("whole", n) for n in options.dense]
    for framework in options.frameworks:
        console.print(_table(options, framework, cases))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--frameworks", nargs="+", default=["torch", "tensorflow"])
    parser.add_argument("--rows", nargs="+", type=int, default=[100_000, 10_000_000])
    parser.add_argument("--dense", nargs="*", type=int, default=[])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--steps", type=int, default=40, help="timed steps (default: 40)")
    parser.add_argument("--timeout", type=float, default=400, help="seconds a case may take")
    return parser.parse_args()


def _table(options: argparse.Namespace, framework: str, cases: list[tuple[str, int]]) -> Table:
    table = Table(
        title=f"{framework}: batch {BATCH}, width {WIDTH}, {options.ranks} ranks x 1 thread",
        caption=f"{options.steps} steps each; load average {machine.load()}",
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("gradient as")
    for heading in ("rows of the table", "KB sent a step", "step ms", "middle half", "memory MB"):
        table.add_column(heading, justify="right", no_wrap=True)
    for kind, rows in cases:
        program = [__file__, "--work", framework, str(rows), kind, str(options.steps)]
        ranks = launching.run_program(program, ranks=options.ranks, timeout=options.timeout)
        if len({rank["digest"] for rank in ranks}) > 1:
            raise SystemExit(f"{framework}, {rows} rows: the ranks end with different weights")
        times = [
            1000 * statistics.mean(t) for t in zip(*(r["seconds"] for r in ranks), strict=True)
        ]
        low, median, high = statistics.quantiles(times, n=4)
        table.add_row(
            kind,
            f"{rows:,}",
            f"{statistics.mean(rank['bytes'] for rank in ranks) / 1000:,.0f}",
            f"{median:.1f}",
            f"{low:.1f} to {high:.1f}",
            f"{max(rank['memory'] for rank in ranks) / 1e6:.0f}",
        )
    return table


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work(*sys.argv[2:])
    else:
        main()
