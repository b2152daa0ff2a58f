"""`Comm` over TensorFlow tensors: the only file that imports horovod.tensorflow.

Inside a tf.function the graph runs collectives as soon as their inputs are there, so a handle
is only the promise of a tensor. Called eagerly, each one finishes before it returns.
"""

from __future__ import annotations

import horovod.tensorflow as hvd
import tensorflow as tf

from hvdkit.adapters.horovod import HorovodComm
from hvdkit.comm import Done
from hvdkit.launch.environment import Job


class TensorFlowHorovodComm(HorovodComm):
    """Horovod on TensorFlow tensors, eager or in a graph."""

    def __init__(self, job: Job):
        super().__init__(hvd, job)

    def allreduce(self, x, *, name, op="sum", group=None):
        return Done(hvd.allreduce(x, name=name, op=self._ops[op], process_set=self._set(group)))

    def reduce_scatter(self, x, *, name, op="sum", group=None):
        return Done(hvd.reducescatter(x, name=name, op=self._ops[op], process_set=self._set(group)))

    def all_gather(self, x, *, name, group=None):
        return Done(hvd.allgather(x, name=name, process_set=self._set(group)))

    def broadcast(self, x, *, name, root=0, group=None):
        return Done(hvd.broadcast(x, root, name=name, process_set=self._set(group)))

    def all_to_all(self, x, *, name, splits, group=None):
        received, _ = hvd.alltoall(
            x,
            splits=tf.constant(list(splits), tf.int32),
            name=name,
            process_set=self._set(group),
        )
        return Done(received)

    def all_gather_bytes(self, data):
        return self.all_gather(tf.constant(data), name="bytes").wait().numpy()
