"""Threads and Horovod for torch, before a model is made."""

from __future__ import annotations

import torch

from hvdkit.comm import Comm, SoloComm
from hvdkit.launch.environment import Job


def start(job: Job, *, threads: int, precision: str) -> Comm:
    """Limit torch to `threads` compute threads and join the job."""
    del precision  # torch sets a model's dtype after it is made
    torch.set_num_threads(threads)
    if job.size == 1:
        return SoloComm()
    from hvdkit.adapters.torch.comm import TorchHorovodComm

    comm = TorchHorovodComm(job)
    if torch.cuda.is_available():
        torch.cuda.set_device(comm.local_rank)
    return comm
