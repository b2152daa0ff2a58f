"""One worker: a real `Comm` whose collectives are the identity. It never touches MPI."""

from __future__ import annotations

from hvdkit.comm.base import Comm, Done, Group


class SoloComm(Comm):
    """The only rank of a job of one, for tensors of any framework."""

    rank, size, local_rank, local_size = 0, 1, 0, 1

    def allreduce(self, x, *, name, op="sum", group=None):
        return Done(x)

    def reduce_scatter(self, x, *, name, op="sum", group=None):
        return Done(x)

    def all_gather(self, x, *, name, group=None):
        return Done(x)

    def broadcast(self, x, *, name, root=0, group=None):
        self.group((root,))
        return Done(x)

    def all_to_all(self, x, *, name, splits, group=None):
        if list(splits) != [len(x)]:
            raise ValueError(f"{name}: splits {list(splits)} do not cover {len(x)} rows")
        return Done(x)

    def group(self, ranks):
        if tuple(ranks) != (0,):
            raise ValueError(f"ranks {tuple(ranks)} are not in a job of one rank")
        return Group((0,))

    def barrier(self):
        pass

    def all_gather_bytes(self, data):
        return data
