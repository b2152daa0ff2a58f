"""Update rules with one arithmetic for both frameworks, and learning-rate schedules.

Imports tensors only. torch's own Adam and Keras's differ by 1e-4 after a few steps even in
fp64; these do not differ, because there is only one of each.
"""

from hvdkit.optimizers.adagrad import Adagrad
from hvdkit.optimizers.adam import Adam, AdamW
from hvdkit.optimizers.base import LayerwiseOptimizer, Optimizer
from hvdkit.optimizers.ema import Averaged
from hvdkit.optimizers.lars import LAMB, LARS
from hvdkit.optimizers.rmsprop import RMSprop
from hvdkit.optimizers.schedules import Constant, Cosine, Linear, Polynomial, Schedule, Step
from hvdkit.optimizers.sgd import SGD

__all__ = [
    "LAMB",
    "LARS",
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "Averaged",
    "Constant",
    "Cosine",
    "LayerwiseOptimizer",
    "Linear",
    "Optimizer",
    "Polynomial",
    "RMSprop",
    "Schedule",
    "Step",
]
