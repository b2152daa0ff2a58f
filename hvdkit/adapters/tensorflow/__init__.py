"""TensorFlow with Keras 3; imported only when it is the chosen framework."""

import os

# Both are read when TensorFlow and Keras are first imported, which the next lines do.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["KERAS_BACKEND"] = "tensorflow"

from hvdkit.adapters.tensorflow.adapter import TensorFlowAdapter
from hvdkit.adapters.tensorflow.runtime import start

__all__ = ["TensorFlowAdapter", "start"]
