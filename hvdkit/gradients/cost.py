"""What a step costs on a cluster that is not there: pure arithmetic, in seconds and bytes.

Collectives cost alpha (a latency) a hop and 1/beta (a bandwidth) a byte: R. Thakur, R. Rabenseifner
and W. Gropp, "Optimization of collective communication operations in MPICH" (IJHPCA 2005). A
ring's allreduce moves 2 (p - 1) / p of the buffer over every link, which is the least possible:
P. Patarasuk and X. Yuan, "Bandwidth optimal all-reduce algorithms for clusters of
workstations" (JPDC 2009). Messages overlap with the backward pass as they become ready.

What is not in it: other traffic, ranks that are slower than others, the cores that moving
bytes takes from computing. So it is a bound from below where those matter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Collective = Literal["allreduce", "reduce_scatter", "all_gather", "all_to_all"]
Algorithm = Literal["ring", "hierarchical"]


@dataclass(frozen=True)
class Link:
    """`latency` seconds until the first byte, then `bandwidth` bytes a second, each way."""

    latency: float
    bandwidth: float


@dataclass(frozen=True)
class Cluster:
    """`workers`, `local_workers` of them on each host.

    The workers of a host share its `network` link. `sum_rate`: bytes a second that a worker adds
    up. `cycle`: how often messages that have become ready are looked for, and agreed on.
    """

    workers: int
    network: Link
    local_workers: int = 1
    local: Link = Link(1e-6, 10e9)
    sum_rate: float = math.inf
    cycle: float = 1e-3  # Horovod's default

    def __post_init__(self) -> None:
        if self.workers < 1 or self.local_workers < 1:
            raise ValueError("a cluster has workers, and hosts have some")
        if self.workers > self.local_workers and self.workers % self.local_workers:
            raise ValueError(f"{self.workers} workers are not whole hosts of {self.local_workers}")

    @property
    def per_host(self) -> int:
        return min(self.workers, self.local_workers)

    @property
    def hosts(self) -> int:
        return self.workers // self.per_host

    def negotiation(self) -> float:
        """Seconds until all ranks know that a message is ready on all of them.

        Half a cycle, and the two small allreduces that Horovod's response cache takes.
        """
        if self.workers == 1:
            return 0.0
        link = self.network if self.hosts > 1 else self.local
        return self.cycle / 2 + 2 * math.ceil(math.log2(self.workers)) * link.latency

    def seconds(self, kind: Collective, nbytes: float, algorithm: Algorithm = "ring") -> float:
        """How long a collective takes. `nbytes`: what each worker brings to it."""
        if self.workers == 1:
            return 0.0
        if kind == "allreduce":
            return self._allreduce(nbytes, algorithm)
        if kind == "reduce_scatter":
            one_way = self._allreduce(nbytes, algorithm, summed=0.0) / 2
            return one_way + self._summing(nbytes)
        if kind == "all_gather":
            return self._all_gather(nbytes, algorithm)
        return self._all_to_all(nbytes)

    def _allreduce(self, nbytes: float, algorithm: Algorithm, summed: float = 1.0) -> float:
        hosts, inside, p = self.hosts, self.per_host, self.workers
        if algorithm == "ring" or hosts == 1:
            share = 2 * (p - 1) / p
            moved = share * nbytes / self._slowest()
            return 2 * (p - 1) * self._hop() + moved + summed * self._summing(nbytes)
        # Reduce-scatter inside a host, a ring across hosts for each worker's part (which share
        # the host's link), all-gather inside.
        local = 2 * (inside - 1) * (self.local.latency + nbytes / inside / self.local.bandwidth)
        across = 2 * (hosts - 1) * self.network.latency
        across += 2 * (hosts - 1) / hosts * nbytes / self.network.bandwidth
        adding = (inside - 1) / inside * nbytes + (hosts - 1) / hosts * nbytes / inside
        return local + across + summed * adding / self.sum_rate

    def _all_gather(self, nbytes: float, algorithm: Algorithm) -> float:
        hosts, inside, p = self.hosts, self.per_host, self.workers
        if algorithm == "ring" or hosts == 1:
            return (p - 1) * (self._hop() + nbytes / self._slowest())
        across = (hosts - 1) * self.network.latency
        across += (p - inside) * nbytes / self.network.bandwidth
        local = (inside - 1) * (self.local.latency + p / inside * nbytes / self.local.bandwidth)
        return across + local

    def _all_to_all(self, nbytes: float) -> float:
        hosts, inside, p = self.hosts, self.per_host, self.workers
        local = (inside - 1) * (self.local.latency + nbytes / p / self.local.bandwidth)
        if hosts == 1:
            return local
        leaving = inside * nbytes * (p - inside) / p  # of a host, over one link
        return local + (p - inside) * self.network.latency + leaving / self.network.bandwidth

    def _summing(self, nbytes: float) -> float:
        return (self.workers - 1) / self.workers * nbytes / self.sum_rate

    def _slowest(self) -> float:
        """The bandwidth of a ring through all workers, host by host."""
        if self.hosts == 1:
            return self.local.bandwidth
        if self.per_host == 1:
            return self.network.bandwidth
        return min(self.network.bandwidth, self.local.bandwidth)

    def _hop(self) -> float:
        """The mean latency of a ring's hops: one a host crosses the network."""
        across = self.hosts / self.workers if self.hosts > 1 else 0.0
        return across * self.network.latency + (1 - across) * self.local.latency


@dataclass(frozen=True)
class Message:
    """A bucket on its way: complete `ready` seconds after the step began.

    `wires` are the collectives that carry it and what each worker brings to them; `encode`
    seconds are spent before it leaves, `decode` once it is there.
    """

    ready: float
    wires: tuple[tuple[Collective, float], ...]
    encode: float = 0.0
    decode: float = 0.0


@dataclass(frozen=True)
class Work:
    """A step on one worker, without communication: `compute` seconds until the backward pass
    ends, then `update`."""

    compute: float
    update: float
    messages: tuple[Message, ...]

    @property
    def seconds(self) -> float:
        return self.compute + self.update


@dataclass(frozen=True)
class Prediction:
    """A step's `seconds`, of which `exposed` are waits; `efficiency` against one worker alone."""

    seconds: float
    exposed: float
    efficiency: float
    wire_seconds: float


def predict(work: Work, cluster: Cluster, algorithm: Algorithm = "ring") -> Prediction:
    """A step of `work` on every worker of `cluster` (weak scaling: the same work for each)."""
    if cluster.workers == 1:
        return Prediction(work.seconds, 0.0, 1.0, 0.0)
    free = spent = wire = 0.0
    finished: list[tuple[float, float]] = []
    for message in sorted(work.messages, key=lambda message: message.ready):
        spent += message.encode  # by the thread that computes
        took = sum(cluster.seconds(kind, n, algorithm) for kind, n in message.wires)
        free = max(message.ready + spent + cluster.negotiation(), free) + took
        wire += took
        finished.append((free, message.decode))
    at = work.compute + spent
    exposed = 0.0
    for finish, decode in finished:
        exposed += max(0.0, finish - at)
        at = max(at, finish) + decode
    seconds = at + work.update
    return Prediction(seconds, exposed, work.seconds / seconds, wire)


def buckets_of(layers: Sequence[tuple[float, float]], cap: float) -> list[tuple[float, float]]:
    """Group (ready, bytes) in order of readiness into messages of at most `cap` bytes."""
    grouped: list[tuple[float, float]] = []
    for ready, nbytes in sorted(layers):
        if grouped and grouped[-1][1] + nbytes <= cap:
            grouped[-1] = (ready, grouped[-1][1] + nbytes)
        else:
            grouped.append((ready, nbytes))
    return grouped
