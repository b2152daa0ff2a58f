"""What a model is trained to do: records to inputs, losses, metrics. Imports tensors only."""

from hvdkit.tasks.base import Task
from hvdkit.tasks.classification import Classification

__all__ = ["Classification", "Task"]
