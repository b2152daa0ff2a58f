"""What happens beside training: logs, bars, checks. A callback may look at the trainer and at
what is below it, and never changes what is computed."""

from hvdkit.callbacks.autotune import Autotune, Tuning
from hvdkit.callbacks.base import Callback
from hvdkit.callbacks.consistency import Agreement, WeightDigest
from hvdkit.callbacks.log import Log
from hvdkit.callbacks.progress import Progress
from hvdkit.callbacks.stragglers import Stragglers
from hvdkit.callbacks.tensorboard import TensorBoard
from hvdkit.callbacks.timeline import Timeline

__all__ = [
    "Agreement",
    "Autotune",
    "Callback",
    "Log",
    "Progress",
    "Stragglers",
    "TensorBoard",
    "Timeline",
    "Tuning",
    "WeightDigest",
]
