"""Learning rates as pure functions of the step."""

from __future__ import annotations

import functools
import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from hvdkit.errors import HvdkitError
from hvdkit.schema import at_least, check, choice, positive

Scaling = Literal["none", "linear", "sqrt"]
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Schedule(ABC):
    """Warm-up, then a curve.

    For `warmup_steps` updates, or `warmup_epochs` times over the data (the nearest whole number
    of updates), the factor climbs linearly from 1 / world size to its full value when
    `scale_lr` is on (Goyal et al. 2017, section 2.2), and from 0 otherwise. A run that is
    shorter than its warm-up ends on the way up, at a lower rate, and says so once. `scale_lr`
    multiplies the base rate by the number of workers, or by its square root (You et al. 2020),
    for a batch that grows with them.
    """

    warmup_steps: int | None = at_least(0, default=0)
    warmup_epochs: float | None = at_least(0.0, default=None)
    scale_lr: Scaling = choice("none", "linear", "sqrt", default="none")

    def __post_init__(self):
        check(self)
        self.check_together(asdict(self), type(self).__name__)

    @staticmethod
    def check_together(node: Mapping[str, Any], where: str) -> None:
        """Raise `HvdkitError` if the warm-up is given in steps and in epochs."""
        steps, epochs = node.get("warmup_steps"), node.get("warmup_epochs")
        if steps and epochs:
            raise HvdkitError(
                f"{where}.warmup_steps={steps} and {where}.warmup_epochs={epochs} cannot both be "
                "given: set one of them to null"
            )

    def __call__(
        self, base_lr: float, step: int, *, num_steps: int, workers: int, steps_per_epoch: float
    ) -> float:
        """The learning rate of update number `step` (0 is the first) of `num_steps`.

        `steps_per_epoch`, the number of records over that of a batch, need not be whole.
        """
        scale = {"none": 1.0, "linear": float(workers), "sqrt": math.sqrt(workers)}[self.scale_lr]
        warmup = self.warmup_steps or round((self.warmup_epochs or 0.0) * steps_per_epoch)
        if step < warmup:
            if num_steps < warmup:
                _tell_short(warmup, num_steps)
            start = 0.0 if self.scale_lr == "none" else 1.0
            return base_lr * (start + (scale - start) * (step + 1) / warmup)
        progress = min((step - warmup) / max(num_steps - warmup, 1), 1.0)
        return base_lr * scale * self.curve(progress, step / steps_per_epoch)

    @abstractmethod
    def curve(self, progress: float, epoch: float) -> float:
        """The factor at `progress`, 0 to 1 between the end of warm-up and the last step, when
        the data has been gone over `epoch` times, warm-up included."""


@functools.cache  # once a process, though every step may find it
def _tell_short(warmup: int, num_steps: int) -> None:
    # At INFO, which rank 0 alone prints: all ranks would say the same.
    _log.info(
        "the warm-up takes %d steps and the run %d: it ends before the full learning rate is "
        "reached (schedule.warmup_steps)",
        warmup,
        num_steps,
    )


@dataclass(frozen=True, kw_only=True)
class Constant(Schedule):
    """The same rate throughout."""

    def curve(self, progress, epoch):
        return 1.0


@dataclass(frozen=True, kw_only=True)
class Linear(Schedule):
    """A straight line down to `final` times the rate."""

    final: float = at_least(0.0, default=0.0)

    def curve(self, progress, epoch):
        return self.final + (1 - self.final) * (1 - progress)


@dataclass(frozen=True, kw_only=True)
class Polynomial(Schedule):
    """A power of the time left, down to `final` times the rate: (1 - progress)^power.

    You et al. 2017 train with power 2, You et al. 2020 and BERT with power 1.
    """

    power: float = positive(default=2.0)
    final: float = at_least(0.0, default=0.0)

    def curve(self, progress, epoch):
        return self.final + (1 - self.final) * (1 - progress) ** self.power


@dataclass(frozen=True, kw_only=True)
class Cosine(Schedule):
    """Half a cosine down to `final` times the rate (Loshchilov & Hutter 2017, no restarts)."""

    final: float = at_least(0.0, default=0.0)

    def curve(self, progress, epoch):
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True, kw_only=True)
class Step(Schedule):
    """Times `gamma` at each of `milestones`, in epochs from the run's start.

    He et al. 2016 and Goyal et al. 2017 divide by 10 at the epochs 30, 60 and 80 of 90.
    """

    milestones: list[float] = positive()
    gamma: float = positive(default=0.1)

    def curve(self, progress, epoch):
        # An epoch that ends on a whole step must not begin one later for a rounded quotient.
        passed = sum(epoch >= milestone * (1 - 1e-12) for milestone in self.milestones)
        return self.gamma**passed
