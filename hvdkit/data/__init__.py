"""Records, the order they are trained in, and batches. Imports tasks' contract only."""

from hvdkit.data.loader import EvalData, TrainData
from hvdkit.data.sources import ArraySource, Dataset, arrays, digits

__all__ = ["ArraySource", "Dataset", "EvalData", "TrainData", "arrays", "digits"]
