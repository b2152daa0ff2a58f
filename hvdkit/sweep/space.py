"""Search spaces: Hydra's override syntax as Optuna's distributions, and their values as overrides.

    optimizer.lr=tag(log,interval(1e-4,1))     a float, evenly by its logarithm
    model.dropout=interval(0,0.5)              a float
    model.layers=int(interval(2,8))            a whole number, both ends included
    data.batch_size=range(32,257,32)           32, 64, ... 256: Hydra's ranges leave out the end
    optimizer=choice(sgd,adam)                 one of these; also sgd,adam and glob(*)

Imports Optuna's distributions.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException
from optuna.distributions import (
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from hvdkit.errors import HvdkitError
from hvdkit.explain import explain

Distribution: TypeAlias = CategoricalDistribution | FloatDistribution | IntDistribution


@dataclass(frozen=True)
class Space:
    """What a search varies, by key as on the command line, and the overrides it keeps fixed."""

    varied: dict[str, Distribution]
    fixed: tuple[str, ...]

    def overrides(self, params: Mapping[str, Any]) -> list[str]:
        """A point as overrides: the fixed ones, then one for each value."""
        return [*self.fixed, *self.own_overrides(params)]

    def own_overrides(self, params: Mapping[str, Any]) -> list[str]:
        """A point's values alone. Twelve digits of a number, so that 0.1 + 0.2 is 0.3."""
        words = []
        for key in self.varied:
            value = params[key]
            words.append(f"{key}={float(f'{value:.12g}') if isinstance(value, float) else value}")
        return words

    def corners(self) -> Iterator[dict[str, Any]]:
        """Points that together have each choice, and both ends of each interval, once at least."""
        ends = {
            key: list(d.choices) if isinstance(d, CategoricalDistribution) else [d.low, d.high]
            for key, d in self.varied.items()
        }
        first = {key: values[0] for key, values in ends.items()}
        yield first
        for key, values in ends.items():
            yield from ({**first, key: value} for value in values[1:])

    def grid(self) -> Iterator[dict[str, Any]]:
        """Every point, the last key's values changing fastest.

        Raises `HvdkitError` if a key has no list of values.
        """
        values = [_values(key, distribution) for key, distribution in self.varied.items()]
        for point in itertools.product(*values):
            yield dict(zip(self.varied, point, strict=True))


def read_space(words: Sequence[str], loader: ConfigLoader | None = None) -> Space:
    """Read overrides; of two for the same key the later one holds.

    Raises `HvdkitError` for syntax that Hydra does not read, and for what is no space.
    """
    parser = OverridesParser.create(config_loader=loader)
    found: dict[str, Override] = {}
    for word in words:
        try:
            (override,) = parser.parse_overrides([word])
        except HydraException as error:
            raise HvdkitError(explain(error, "train")) from None
        found[override.get_key_element().lstrip("+~")] = override
    varied = {o.get_key_element(): distribution(o) for o in found.values() if o.is_sweep_override()}
    if not varied:
        raise HvdkitError(
            "there is nothing to search over: give a space, as in "
            "'optimizer.lr=tag(log,interval(1e-3,1))' or optimizer=sgd,adam"
        )
    fixed = [str(o.input_line) for o in found.values() if not o.is_sweep_override()]
    return Space(varied, tuple(fixed))


def distribution(override: Override) -> Distribution:
    """A sweep override as a distribution. Choices are texts, as an override takes them."""
    sweep = override.value()
    said = override.input_line
    tags: set[str] = getattr(sweep, "tags", set())
    if isinstance(sweep, ChoiceSweep | RangeSweep):
        sweep.shuffle = False  # a space has no order, and must be the same when read again
    if tags - {"log"}:
        raise HvdkitError(f"{said}: tag {', '.join(tags - {'log'})} is not known, only log is")
    if isinstance(sweep, IntervalSweep):
        return _interval(sweep, said, log="log" in tags)
    if isinstance(sweep, RangeSweep):
        return _range(sweep, said, log="log" in tags)
    if tags and isinstance(sweep, ChoiceSweep):
        raise HvdkitError(f"{said}: tag log is for interval and range, not for choices")
    choices = list(dict.fromkeys(override.sweep_string_iterator()))
    if not choices:
        raise HvdkitError(f"{said}: there is nothing to choose from")
    return CategoricalDistribution(choices)


def _interval(sweep: IntervalSweep, said: str | None, *, log: bool) -> Distribution:
    low, high = sweep.start, sweep.end
    assert low is not None
    assert high is not None
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise HvdkitError(f"{said}: {low:g} to {high:g} is no interval: write interval(LOW,HIGH)")
    if log and low <= 0:
        raise HvdkitError(f"{said}: with tag log the lower end must be above 0, not {low:g}")
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=log)
    return FloatDistribution(low, high, log=log)


def _range(sweep: RangeSweep, said: str | None, *, log: bool) -> Distribution:
    try:
        values = sorted(sweep.range())
    except (HydraException, ValueError):  # a step of 0
        values = []
    if not values:
        raise HvdkitError(f"{said}: no value lies in this range: write range(START,STOP,STEP)")
    low, high, step = values[0], values[-1], abs(sweep.step)
    if log and (step != 1 or low <= 0 or not isinstance(low, int)):
        raise HvdkitError(
            f"{said}: with tag log a range counts whole numbers above 0 by 1; or use interval"
        )
    if isinstance(low, int) and isinstance(step, int):
        return IntDistribution(low, high, step=step, log=log)
    # Hydra counts in decimal fractions of what binary ones are near to.
    return FloatDistribution(float(f"{low:.12g}"), float(f"{high:.12g}"), step=float(step))


def _values(key: str, distribution: Distribution) -> list[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    step = getattr(distribution, "step", None)
    if not step:
        raise HvdkitError(
            f"{key} is an interval, and a grid needs values: use choice(...) or "
            "range(START,STOP,STEP), or hydra.sweeper.sampler=tpe"
        )
    count = round((distribution.high - distribution.low) / step) + 1
    if isinstance(distribution, IntDistribution):
        return [distribution.low + i * int(step) for i in range(count)]
    return [min(distribution.low + i * step, distribution.high) for i in range(count)]
