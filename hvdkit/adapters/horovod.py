"""What Horovod's torch and TensorFlow modules have in common, as a `Comm`.

The subclasses, one in each framework's folder, import their own Horovod module and say how
its collectives are called. Imports comm and launch only.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from hvdkit.comm import Comm, Group
from hvdkit.errors import HvdkitError
from hvdkit.launch.environment import Job

# MPI sums messages of this size in the cache of a core: benchmarks/step.py's largest model took
# 0.90 (torch) and 0.96 (TensorFlow) of the step that whole gradients of 64 MB did, and 4 MB gained
# half as much. Over a link each message costs a pause: links.py's step grew by a tenth.
_MESSAGE_MB = 8.0


class HorovodComm(Comm):
    """A rank of a Horovod job, through the module `hvd` (horovod.torch or .tensorflow)."""

    def __init__(self, hvd: Any, job: Job):
        self._hvd = hvd
        hvd.init()
        self.rank, self.size = hvd.rank(), hvd.size()
        self.local_rank, self.local_size = hvd.local_rank(), hvd.local_size()
        self.host = hvd.cross_rank()
        if self.local_size == self.size and hvd.mpi_enabled() and not hvd.nccl_built():
            self.message_mb = _MESSAGE_MB
        if self.size != job.size:
            raise HvdkitError(
                f"the launcher started {job.size} ranks but Horovod joined {self.size}: each "
                "would train alone. Horovod was built for another MPI than the one that "
                "launched it; `hvdkit doctor` names both"
            )
        self._check_knobs()
        self._ops = {"sum": hvd.Sum, "min": hvd.Min, "max": hvd.Max}
        self._process_sets: dict[tuple[int, ...], Any] = {}

    def _check_knobs(self) -> None:
        """Refuse what a launcher's flag asks for and this build, or hvdkit, cannot give."""
        for name in ("HOROVOD_HIERARCHICAL_ALLREDUCE", "HOROVOD_TORUS_ALLREDUCE"):
            if os.environ.get(name, "0") != "0" and not self._hvd.nccl_built():
                raise HvdkitError(
                    f"{name} is set, but this Horovod was built without NCCL and would ignore "
                    "it: drop the launcher's flag"
                )
        if os.environ.get("HOROVOD_AUTOTUNE", "0") != "0":
            raise HvdkitError(
                "HOROVOD_AUTOTUNE is set: it changes how tensors are fused while a run goes on, "
                "so equal runs would differ. Drop the launcher's flag"
            )

    def _set(self, group: Group | None) -> Any:
        return group.token if group else self._hvd.global_process_set

    def group(self, ranks):
        ranks = tuple(sorted(ranks))
        if ranks == tuple(range(self.size)):
            return Group(ranks, self._hvd.global_process_set)
        if ranks not in self._process_sets:
            self._process_sets[ranks] = self._hvd.add_process_set(list(ranks))
        return Group(ranks, self._process_sets[ranks])

    def barrier(self):
        # Horovod's own exists for torch alone. No rank has this before all have brought theirs.
        self.all_gather_bytes(np.zeros(1, np.uint8))

    def start_timeline(self, path):
        if os.environ.get("HOROVOD_TIMELINE") != "DYNAMIC":
            return "Horovod keeps a part of it only where comm.timeline=DYNAMIC"
        if self.rank == 0:  # Horovod's coordinator, the only one that writes
            self._hvd.start_timeline(path)
        return None

    def stop_timeline(self):
        if self.rank == 0:
            self._hvd.stop_timeline()

    def close(self):
        self._hvd.shutdown()
