"""What a compression costs without a network: a job whose other ranks hold what this one holds.

Imports comm and tensors.
"""

from __future__ import annotations

import numpy as np

from hvdkit.comm import Comm, Done, Group
from hvdkit.comm.base import part_sizes
from hvdkit.gradients.cost import Collective
from hvdkit.tensors import Ops, Tensor


class EchoComm(Comm):
    """Rank 0 of `size`, in one process: a collective gives what it would give if every rank
    brought the same, at once. Sums are not taken: the network's side does that.

    `sent` lists (collective, bytes that this rank brought to it).
    """

    def __init__(self, size: int, ops: Ops):
        self.rank, self.size, self.local_rank, self.local_size, self.host = 0, size, 0, 1, 0
        self._ops = ops
        self.sent: list[tuple[Collective, float]] = []

    def _count(self, kind: Collective, x: Tensor) -> None:
        self.sent.append((kind, float(self._ops.nbytes(x))))

    def allreduce(self, x, *, name, op="sum", group=None):
        self._count("allreduce", x)
        return Done(x)

    def reduce_scatter(self, x, *, name, op="sum", group=None):
        self._count("reduce_scatter", x)
        return Done(x[: part_sizes(int(x.shape[0]), self.size)[0]])

    def all_gather(self, x, *, name, group=None):
        self._count("all_gather", x)
        return Done(self._ops.concat([x] * self.size))

    def broadcast(self, x, *, name, root=0, group=None):
        return Done(x)

    def all_to_all(self, x, *, name, splits, group=None):
        self._count("all_to_all", x)
        return Done(self._ops.concat([x[: splits[0]]] * self.size))

    def group(self, ranks):
        return Group(tuple(sorted(ranks)))

    def barrier(self):
        pass

    def all_gather_bytes(self, data):
        return np.concatenate([data] * self.size)
