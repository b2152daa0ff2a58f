"""What a model is trained to do: records to inputs, losses, metrics. Imports tensors only."""

from hvdkit.tasks.base import Task
from hvdkit.tasks.classification import Classification
from hvdkit.tasks.click_through import ClickThrough
from hvdkit.tasks.implicit_feedback import ImplicitFeedback
from hvdkit.tasks.text import (
    LanguageModeling,
    MaskedLanguageModeling,
    TextClassification,
    text_task,
)

__all__ = [
    "Classification",
    "ClickThrough",
    "ImplicitFeedback",
    "LanguageModeling",
    "MaskedLanguageModeling",
    "Task",
    "TextClassification",
    "text_task",
]
