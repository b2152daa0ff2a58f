"""A sum inside each host first, then across hosts: the slow link carries each number once.

Horovod has this for NCCL alone; here it is made of groups, so it works wherever they do.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict

from hvdkit.comm import Comm, Group, Subset
from hvdkit.errors import HvdkitError
from hvdkit.gradients.compression import Compression
from hvdkit.strategies.allreduce import AllReduce


class Hierarchical(AllReduce):
    """Sum buckets over the ranks of a host, over hosts, and share the result inside the host.

    Each rank of a host takes over an equal part of every bucket and sums it with the ranks that
    have that part on other hosts; of n bytes a host then sends 2 (h-1)/h n over its link, where a
    ring over all p ranks has 2 (p-1)/p n pass it. `compression` is for the way between hosts.
    Mikami et al., "Massively distributed SGD" (arXiv:1811.05233), section 2.2.
    """

    def __init__(
        self,
        *,
        compression: Compression | None = None,
        bucket_mb: float = 4.0,
        chunk_mb: float | None = None,
        learn_order: bool = True,
    ):
        super().__init__(
            compression=compression,
            bucket_mb=bucket_mb,
            chunk_mb=chunk_mb,
            learn_order=learn_order,
        )
        if not self.compression.divisible:
            raise HvdkitError(
                "strategy=hierarchical shares each bucket out among a host's ranks, and "
                f"{type(self.compression).__name__} needs whole matrices: choose compression="
                "none, fp16, bf16, int8 or topk, or strategy=allreduce"
            )

    def setup(self, params, comm, ops, *, plan=None):
        self._inside_group, self._across_group = _groups(comm)
        super().setup(params, comm, ops, plan=plan)

    def set_up(self, compression, parts):
        self._inside = Subset(self.traffic, self._inside_group)
        across = Subset(self.traffic, self._across_group)
        mine = []
        for part in parts:
            size = part.size // self._inside.size
            start = part.start + size * self._inside.rank
            mine.append(dataclasses.replace(part, start=start, stop=start + size))
        compression.setup(mine, across, self.ops)

    def moving_state(self):
        # In other buckets, other elements are this rank's to keep.
        sums = {}
        for name, array in sorted(self.own_state().items()):
            total = self.comm.allreduce(self.ops.array(array), name=f"moving.{name}").wait()
            sums[name] = self.ops.numpy(total)
        return sums, True

    def shards(self):
        hosts = len(self._across_group.ranks)
        return self.compression.multiple(hosts) * len(self._inside_group.ranks)

    def stages(self, part, flat, compression):
        size = part.size // self._inside.size
        mine = yield self._inside.reduce_scatter(flat, name=f"{part.key}.inside")
        mine = yield from compression.stages(self.ops.reshape(mine, (size,)), part.key)
        whole = yield self._inside.all_gather(mine, name=f"{part.key}.shared")
        return self.ops.reshape(whole, (part.size,))


def _groups(comm: Comm) -> tuple[Group, Group]:
    """The ranks of this one's host, and those of its number on all hosts.

    Raises `HvdkitError` on every rank where a hierarchy makes no sense.
    """
    hosts: dict[int, list[int]] = defaultdict(list)
    for rank, host in enumerate(comm.all_gather_object(comm.host)):
        hosts[host].append(rank)
    sizes = sorted({len(ranks) for ranks in hosts.values()})
    if len(sizes) > 1:
        problem = (
            f"as many ranks on each host, and there are {sizes[0]} on one, {sizes[-1]} on another"
        )
    elif len(hosts) == 1:
        problem = f"several hosts, and all {comm.size} ranks are on one"
    elif sizes == [1]:
        problem = f"several ranks on each host, and there is one on each of {len(hosts)}"
    else:
        inside = [comm.group(ranks) for ranks in hosts.values()]
        across = [comm.group(ranks) for ranks in zip(*hosts.values(), strict=True)]
        own = [group for group in inside if comm.rank in group.ranks]
        alike = [group for group in across if comm.rank in group.ranks]
        return own[0], alike[0]
    raise HvdkitError(f"strategy=hierarchical needs {problem}: use strategy=allreduce")
