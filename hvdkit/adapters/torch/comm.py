"""`Comm` over torch tensors: the only file that imports horovod.torch."""

from __future__ import annotations

import time
from dataclasses import dataclass

import horovod.torch as hvd
import torch

from hvdkit.adapters.horovod import HorovodComm
from hvdkit.launch.environment import Job

# Seconds between two looks: short where little is missing, and no burden on a slow network.
_FIRST_NAP, _LAST_NAP = 50e-6, 1e-3


@dataclass(frozen=True)
class _Handle:
    comm: TorchHorovodComm
    number: int
    first: bool = False  # alltoall returns (tensor, received splits)

    def wait(self):
        start = time.perf_counter()
        # Horovod's own wait spins, on a core that its thread needs to sum what has come.
        nap = _FIRST_NAP
        while not hvd.poll(self.number):
            time.sleep(nap)
            nap = min(1.2 * nap, _LAST_NAP)
        result = hvd.synchronize(self.number)
        self.comm.waited += time.perf_counter() - start
        return result[0] if self.first else result

    def poll(self):
        return hvd.poll(self.number)


class TorchHorovodComm(HorovodComm):
    """Horovod on torch tensors. `allreduce` works in place on contiguous ones."""

    def __init__(self, job: Job):
        super().__init__(hvd, job)
        self.waited = 0.0  # seconds spent in `wait`: communication that nothing hid

    def allreduce(self, x, *, name, op="sum", group=None):
        return _Handle(
            self, hvd.allreduce_async_(x, name=name, op=self._ops[op], process_set=self._set(group))
        )

    def reduce_scatter(self, x, *, name, op="sum", group=None):
        return _Handle(
            self,
            hvd.reducescatter_async(x, name=name, op=self._ops[op], process_set=self._set(group)),
        )

    def all_gather(self, x, *, name, group=None):
        return _Handle(self, hvd.allgather_async(x, name=name, process_set=self._set(group)))

    def broadcast(self, x, *, name, root=0, group=None):
        return _Handle(self, hvd.broadcast_async(x, root, name=name, process_set=self._set(group)))

    def all_to_all(self, x, *, name, splits, group=None):
        counts = torch.tensor(list(splits), dtype=torch.int32)
        return _Handle(
            self,
            hvd.alltoall_async(x, splits=counts, name=name, process_set=self._set(group)),
            first=True,
        )

    def all_gather_bytes(self, data):
        return self.all_gather(torch.from_numpy(data.copy()), name="bytes").wait().numpy()
