"""Threads, dtype and Horovod for TensorFlow, before a model is made."""

from __future__ import annotations

import os

import keras
import tensorflow as tf

from hvdkit.adapters.base import COMPUTE_DTYPES, DTYPES
from hvdkit.adapters.tensorflow.ops import TensorFlowOps
from hvdkit.comm import Comm, SoloComm
from hvdkit.launch.environment import Job, ranks_exceed_cores


def start(job: Job, *, threads: int, precision: str) -> Comm:
    """Limit TensorFlow to `threads` compute threads, set Keras's dtype, join the job."""
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    use_dtype(DTYPES[precision], compute=COMPUTE_DTYPES.get(precision))
    if job.size == 1:
        return SoloComm()
    if ranks_exceed_cores(job.sharers, threads):
        # Horovod's thread asks its peers once a cycle, and waits in MPI for their answer. On
        # cores that TensorFlow's threads need too, one cycle a millisecond made steps of the
        # digits take from 2 to 60 ms, as the scheduler pleased; three keep them at 4 or 5.
        os.environ.setdefault("HOROVOD_CYCLE_TIME", "3")
    from hvdkit.adapters.tensorflow.comm import TensorFlowHorovodComm

    comm = TensorFlowHorovodComm(job)
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        tf.config.set_visible_devices(gpus[comm.local_rank], "GPU")
    return comm


def use_dtype(dtype: str, *, compute: str | None = None) -> None:
    """Make new Keras layers keep weights in `dtype` and compute in it, or in `compute`, also
    where some layers were made before."""
    keras.config.set_floatx(dtype)
    # The first layer of a process fixes the policy of all later ones, whatever floatx becomes.
    keras.config.set_dtype_policy(f"mixed_{compute}" if compute else dtype)


def make_ops() -> TensorFlowOps:
    return TensorFlowOps()
