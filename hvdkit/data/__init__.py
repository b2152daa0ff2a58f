"""Records, the order they are trained in, and batches. Imports tasks' contract only."""

from hvdkit.data.loader import EvalData, TrainData
from hvdkit.data.sources import ArraySource, Dataset, ImageDataset, arrays, digits

__all__ = ["ArraySource", "Dataset", "EvalData", "ImageDataset", "TrainData", "arrays", "digits"]
