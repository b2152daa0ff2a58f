"""Threads and Horovod for torch, before a model is made."""

from __future__ import annotations

import ctypes

import torch

from hvdkit.adapters.torch.ops import TorchOps
from hvdkit.comm import Comm, SoloComm
from hvdkit.launch.environment import Job


def start(job: Job, *, threads: int, precision: str) -> Comm:
    """Limit torch to `threads` compute threads and join the job."""
    del precision  # torch sets a model's dtype after it is made
    torch.set_num_threads(threads)
    _keep_freed_memory()
    if job.size == 1:
        return SoloComm()
    from hvdkit.adapters.torch.comm import TorchHorovodComm

    comm = TorchHorovodComm(job)
    if torch.cuda.is_available():
        torch.cuda.set_device(comm.local_rank)
    return comm


def make_ops() -> TorchOps:
    return TorchOps(torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def _keep_freed_memory() -> None:
    """Have glibc keep large freed blocks for the next step instead of unmapping them.

    Every step allocates its gradients anew. A block above glibc's threshold is mapped each
    time and faulted in page by page, which took a third of the step of a network of 46 M
    parameters. The process holds on to its largest step's memory in return. Other C libraries
    have no mallopt, or refuse, and nothing changes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mmap_threshold, trim_threshold = -3, -1  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD in malloc.h
        mallopt(mmap_threshold, 2**30)
        mallopt(trim_threshold, 2**31 - 1)
