"""The callback that `hvdkit bench step` adds to a recipe: steps taken apart, on every rank.

Steps come in blocks, turn about: as they are, and with nothing travelling between the ranks,
which compute at the same time all the same. It never changes the program that it measures but
for that, and ends it when it has seen enough.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hvdkit.adapters import versions
from hvdkit.bench.echo import EchoComm
from hvdkit.callbacks.base import Callback
from hvdkit.comm import SoloComm
from hvdkit.errors import HvdkitError
from hvdkit.gradients.compression.named import make_compression
from hvdkit.strategies import AllReduce, Recorded

if TYPE_CHECKING:
    from hvdkit.trainer import Trainer

FORMAT = 1
WARM_UP = 6  # steps of the first block of each kind; TensorFlow compiles in the first of them
_SETTLE = 2  # steps at the start of each later block
_REPEATS = 3
_LATE = 10**6  # a step after any compression's warm-up
PARTS = ("seconds", "input", "compute", "exposed", "update")
# The numbers of ranks that encodings are timed for. Two may have a way of their own; what they
# cost on others lies on the line through the last two.
ENCODED_FOR = (2, 4, 8)


def steps_needed(steps: int, rounds: int) -> int:
    """How many updates a run must be able to make."""
    return 2 * (WARM_UP + rounds * (steps + _SETTLE))


class Measure(Callback):
    """Write what `rounds` blocks of `steps` steps of either kind took to `file`, and end.

    `encodings` names compressions of `conf/compression`: what each costs to encode and decode,
    and what it sends, is written as well.
    """

    every_rank = True

    def __init__(self, *, file: str, steps: int, rounds: int, encodings: Sequence[str] = ()):
        self._file, self._encodings = Path(file), tuple(encodings)
        self._blocks = [(kind, WARM_UP, False) for kind in ("travelling", "silent")]
        for _ in range(rounds):
            for kind in ("travelling", "silent"):
                self._blocks += [(kind, _SETTLE, False), (kind, steps, True)]
        self._seen: dict[str, list[dict[str, Any]]] = {"travelling": [], "silent": []}

    def on_start(self, trainer):
        self._comm = trainer.adapter.comm
        self._recorded = Recorded.of(trainer.adapter)
        if self._comm.size == 1:  # nothing travels anyway
            self._blocks = [block for block in self._blocks if block[0] == "travelling"]
        needed = sum(count for _, count, _ in self._blocks)
        if trainer.num_steps - trainer.step < needed:
            raise HvdkitError(f"measuring takes {needed} steps, and this run has fewer")
        self._begin_block(trainer)
        self._asked_input = time.time()

    def _begin_block(self, trainer):
        kind, self._left, self._counts = self._blocks.pop(0)
        self._kind = kind
        self._recorded.silent = kind == "silent"
        trainer.adapter.comm = SoloComm() if kind == "silent" else self._comm

    def on_batch(self, trainer):
        self._began = time.time()

    def on_step(self, trainer):
        ended = time.time()
        if self._counts:
            self._seen[self._kind].append(self._parts(ended))
        self._left -= 1
        if not self._left:
            if not self._blocks:
                self._finish(trainer)
            self._begin_block(trainer)
        self._asked_input = time.time()

    def _parts(self, ended: float) -> dict[str, Any]:
        """One step's seconds, by part, and when each message was ready."""
        stamps = self._recorded.stamps()
        computed = stamps.ready.max()
        waits = np.maximum(stamps.agreed - np.maximum(stamps.asked, computed), 0).sum()
        return {
            "seconds": ended - self._asked_input,
            "input": self._began - self._asked_input,
            "compute": computed - self._began,
            "exposed": waits,
            "update": ended - computed - waits,
            "ready": (stamps.ready - self._began).tolist(),
        }

    def _finish(self, trainer):
        """Measure what is left, write, and end the program: it has no result of its own."""
        trainer.adapter.comm = self._comm
        self._recorded.silent = self._recorded.on = False
        mine = {
            "steps": self._seen,
            "alone_on_the_wire": self._communication(trainer),
            "sum_rate": _sum_rate(self._comm.barrier),
        }
        ranks = self._comm.all_gather_object(mine)
        encodings = self._encoded(trainer)
        if self._comm.rank == 0:
            content = {**self._about(trainer), "ranks": ranks, "encodings": encodings}
            self._file.write_text(json.dumps(content))
        self._comm.barrier()
        self._comm.close()
        raise SystemExit(0)

    def _about(self, trainer: Trainer) -> dict[str, Any]:
        adapter, data = trainer.adapter, trainer.train_data
        return {
            "format": FORMAT,
            "framework": adapter.framework,
            "workers": self._comm.size,
            "local_workers": self._comm.local_size,
            "threads": adapter.threads,
            "batch_size": data.batch_size,
            "host": platform.node(),
            "versions": versions(adapter.framework),
            "messages": [[m.name, m.nbytes] for m in self._recorded.messages],
            "bucket_mb": self._recorded.inner.bucket_mb,
        }

    def _communication(self, trainer: Trainer) -> float:
        """Seconds to reduce every bucket, one after the other, while nobody computes."""
        strategy, ops = self._recorded.inner, trainer.adapter.ops
        flats = [ops.zeros((b.size,), b.dtype) for b in strategy.buckets]
        found = []
        for _ in range(_REPEATS + 1):
            self._comm.barrier()
            start = time.perf_counter()
            for bucket, flat in zip(strategy.buckets, flats, strict=True):
                strategy.bucket_ready(bucket, flat)
            for bucket in strategy.buckets:
                strategy.gradient(bucket)
            found.append(time.perf_counter() - start)
        return statistics.median(found[1:])

    def _encoded(self, trainer: Trainer) -> dict[str, Any]:
        """For each compression and number of ranks: seconds and bytes of every bucket."""
        found = {}
        for name in self._encodings:
            found[name] = [
                _encode(trainer.adapter, self._recorded, name, ranks) for ranks in ENCODED_FOR
            ]
        return found


def _encode(adapter: Any, recorded: Recorded, name: str, ranks: int) -> dict:
    ops = adapter.ops
    comm = EchoComm(ranks, ops)
    strategy = AllReduce(compression=make_compression(name), bucket_mb=recorded.inner.bucket_mb)
    strategy.setup(adapter.parameters(), comm, ops)
    strategy.at_step(_LATE)
    strategy.begin(unit=1.0)
    measured_in = {name: b.index for b in recorded.inner.buckets for name in b.names}
    random = np.random.default_rng(0)
    encode, decode, wires = [], [], []
    for bucket in strategy.buckets:
        gradient = 1e-3 * random.standard_normal(bucket.size)
        times = []
        for _ in range(_REPEATS):
            flat = ops.array(gradient, bucket.dtype)
            comm.sent.clear()
            start = time.perf_counter()
            strategy.bucket_ready(bucket, flat)
            middle = time.perf_counter()
            strategy.gradient(bucket)
            times.append((middle - start, time.perf_counter() - middle))
            strategy.commit()
        best = min(times, key=sum)
        encode.append(best[0])
        decode.append(best[1])
        wires.append(list(comm.sent))
    # A bucket of this compression's own plan is ready when those measured are that hold its parts.
    needs = [sorted({measured_in[n] for n in b.names}) for b in strategy.buckets]
    return {"ranks": ranks, "encode": encode, "decode": decode, "wires": wires, "needs": needs}


def _sum_rate(barrier: Callable[[], None]) -> float:
    """Bytes a second that a core adds to others, while all ranks do."""
    x, y = np.ones((2, 2**20), np.float32)
    barrier()
    found = []
    for _ in range(20):
        start = time.perf_counter()
        np.add(x, y, out=x)
        found.append(time.perf_counter() - start)
    return float(x.nbytes / statistics.median(found))
