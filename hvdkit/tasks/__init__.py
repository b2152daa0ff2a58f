"""What a model is trained to do: records to inputs, losses, metrics. Imports tensors only."""

from hvdkit.tasks.base import Task
from hvdkit.tasks.classification import Classification
from hvdkit.tasks.click_through import ClickThrough
from hvdkit.tasks.implicit_feedback import ImplicitFeedback

__all__ = ["Classification", "ClickThrough", "ImplicitFeedback", "Task"]
