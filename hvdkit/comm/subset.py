"""A group of ranks as a `Comm` of its own: whatever works on all ranks then works on some."""

from __future__ import annotations

from hvdkit.comm.base import Comm, Group


class Subset(Comm):
    """The ranks of `group`, numbered from 0, seen from one of them."""

    def __init__(self, comm: Comm, group: Group):
        self._comm, self._group = comm, group
        self.rank, self.size = group.ranks.index(comm.rank), len(group.ranks)
        self.local_rank, self.local_size, self.host = comm.local_rank, comm.local_size, comm.host

    def allreduce(self, x, *, name, op="sum", group=None):
        return self._comm.allreduce(x, name=name, op=op, group=self._only(group))

    def reduce_scatter(self, x, *, name, op="sum", group=None):
        return self._comm.reduce_scatter(x, name=name, op=op, group=self._only(group))

    def all_gather(self, x, *, name, group=None):
        return self._comm.all_gather(x, name=name, group=self._only(group))

    def broadcast(self, x, *, name, root=0, group=None):
        root = self._group.ranks[root]
        return self._comm.broadcast(x, name=name, root=root, group=self._only(group))

    def all_to_all(self, x, *, name, splits, group=None):
        return self._comm.all_to_all(x, name=name, splits=splits, group=self._only(group))

    def _only(self, group: Group | None) -> Group:
        if group is not None:
            raise ValueError("a subset of the ranks has no groups of its own")
        return self._group

    def group(self, ranks):
        raise ValueError("a subset of the ranks has no groups of its own")

    def barrier(self):
        raise ValueError("only the whole job has a barrier")

    def all_gather_bytes(self, data):
        raise ValueError("objects travel over the whole job")
