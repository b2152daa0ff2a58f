"""How many bytes a rank sends: a `Comm` around another that counts what passes through it."""

from __future__ import annotations

import numpy as np

from hvdkit.comm.base import Comm, Group
from hvdkit.tensors import Ops, Tensor


class Traffic(Comm):
    """`comm`, with a count of the payload that this rank sends through it.

    What counts is the bytes of the tensors as they are, times what the usual algorithm of each
    collective has a rank of p send: a ring's 2(p-1)/p of an allreduce and (p-1)/p of a
    reduce_scatter, one's own part p-1 times in an all_gather, (p-1)/p of a broadcast (the mean
    over the ranks), and of an all_to_all what goes to others. Headers, acknowledgements and
    Horovod's own negotiation come on top.

    The count is a variable, so that a compiled step keeps it as well.
    """

    def __init__(self, comm: Comm, ops: Ops):
        self._comm, self._ops = comm, ops
        self._sent = ops.variable(np.zeros(()), "float64")
        self.rank, self.size = comm.rank, comm.size
        self.local_rank, self.local_size, self.host = comm.local_rank, comm.local_size, comm.host

    @property
    def sent(self) -> float:
        """Bytes this rank has sent (never inside a traced step)."""
        return float(self._ops.numpy(self._ops.read(self._sent)))

    def _count(self, x: Tensor, share: float) -> None:
        self._ops.assign_add(self._sent, self._ops.nbytes(x) * share)

    def _peers(self, group: Group | None) -> int:
        return len(group.ranks) if group else self.size

    def allreduce(self, x, *, name, op="sum", group=None):
        p = self._peers(group)
        self._count(x, 2 * (p - 1) / p)
        return self._comm.allreduce(x, name=name, op=op, group=group)

    def reduce_scatter(self, x, *, name, op="sum", group=None):
        p = self._peers(group)
        self._count(x, (p - 1) / p)
        return self._comm.reduce_scatter(x, name=name, op=op, group=group)

    def all_gather(self, x, *, name, group=None):
        self._count(x, self._peers(group) - 1)
        return self._comm.all_gather(x, name=name, group=group)

    def broadcast(self, x, *, name, root=0, group=None):
        p = self._peers(group)
        self._count(x, (p - 1) / p)
        return self._comm.broadcast(x, name=name, root=root, group=group)

    def all_to_all(self, x, *, name, splits, group=None):
        mine = splits[group.ranks.index(self.rank) if group else self.rank]
        self._count(x, (sum(splits) - mine) / max(1, sum(splits)))
        return self._comm.all_to_all(x, name=name, splits=splits, group=group)

    def group(self, ranks):
        return self._comm.group(ranks)

    def barrier(self):
        self._comm.barrier()

    def all_gather_bytes(self, data):
        return self._comm.all_gather_bytes(data)
