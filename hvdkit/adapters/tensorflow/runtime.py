"""Threads, dtype and Horovod for TensorFlow, before a model is made."""

from __future__ import annotations

import keras
import tensorflow as tf

from hvdkit.adapters.base import COMPUTE_DTYPES, DTYPES
from hvdkit.comm import Comm, SoloComm
from hvdkit.launch.environment import Job


def start(job: Job, *, threads: int, precision: str) -> Comm:
    """Limit TensorFlow to `threads` compute threads, set Keras's dtype, join the job."""
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    use_dtype(DTYPES[precision], compute=COMPUTE_DTYPES.get(precision))
    if job.size == 1:
        return SoloComm()
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
