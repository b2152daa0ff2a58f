"""Learning rates: the published scaling rules, a warm-up that climbs, curves without jumps."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvdkit.errors import HvdkitError
from hvdkit.optimizers import Constant, Cosine, Schedule

BASE = 0.1


def rate(
    schedule: Schedule, step: int, *, num_steps: int, workers: int = 1, steps_per_epoch: float = 10
) -> float:
    return schedule(
        BASE, step, num_steps=num_steps, workers=workers, steps_per_epoch=steps_per_epoch
    )


def rates(schedule: Schedule, *, num_steps: int, **more: Any) -> list[float]:
    return [rate(schedule, step, num_steps=num_steps, **more) for step in range(num_steps)]


@given(
    workers=st.integers(1, 64),
    rule=st.sampled_from([("none", 0.0), ("sqrt", 0.5), ("linear", 1.0)]),
    warmup=st.integers(0, 20),
)
def test_after_warm_up_the_rate_is_scaled_by_the_workers(
    workers: Any, rule: Any, warmup: Any
) -> None:
    name, power = rule
    schedule = Constant(warmup_steps=warmup, scale_lr=name)
    for found in rates(schedule, num_steps=40, workers=workers)[max(warmup - 1, 0) :]:
        assert found == pytest.approx(BASE * workers**power)


@given(workers=st.integers(2, 64), warmup=st.integers(1, 50))
def test_a_scaled_warm_up_begins_near_one_workers_rate(workers: int, warmup: int) -> None:
    # Goyal et al. 2017, section 2.2: from eta in equal increments up to k eta.
    found = rates(Constant(warmup_steps=warmup, scale_lr="linear"), num_steps=60, workers=workers)
    increment = BASE * (workers - 1) / warmup
    for step in range(warmup):
        assert found[step] == pytest.approx(BASE + increment * (step + 1))


@given(warmup=st.integers(1, 50))
def test_an_unscaled_warm_up_climbs_from_nothing(warmup: int) -> None:
    found = rates(Constant(warmup_steps=warmup), num_steps=60, workers=3)
    for step in range(warmup):
        assert found[step] == pytest.approx(BASE * (step + 1) / warmup)


@given(
    final=st.floats(0.0, 1.0),
    warmup=st.integers(0, 50),
    num_steps=st.integers(51, 300),
    scale=st.sampled_from(["none", "linear", "sqrt"]),
)
def test_a_cosine_has_no_jump_and_ends_low(
    final: Any, warmup: Any, num_steps: Any, scale: Any
) -> None:
    schedule = Cosine(final=final, warmup_steps=warmup, scale_lr=scale)
    found = rates(schedule, num_steps=num_steps, workers=4)
    full = {"none": 1, "linear": 4, "sqrt": 2}[scale] * BASE
    rest = found[warmup:]
    assert rest[0] == pytest.approx(full)
    assert all(after <= before + 1e-15 for before, after in itertools.pairwise(rest))
    steepest = full * math.pi / 2 / (num_steps - warmup)
    for before, after in itertools.pairwise(rest):
        assert before - after <= steepest * (1 + 1e-9)
    end = rate(schedule, num_steps, num_steps=num_steps, workers=4)
    assert end == pytest.approx(final * full)
    middle = (num_steps + warmup) / 2
    if middle == int(middle):
        halfway = rate(schedule, int(middle), num_steps=num_steps, workers=4)
        assert halfway == pytest.approx(full * (1 + final) / 2)


def test_a_run_that_is_all_warm_up_has_a_rate() -> None:
    assert rates(Cosine(warmup_steps=50), num_steps=10, workers=1)[-1] == pytest.approx(BASE / 5)


@pytest.mark.parametrize("wrong", [{"warmup_steps": -1}, {"scale_lr": "cubic"}, {"final": -0.1}])
def test_values_out_of_range_are_refused(wrong: dict) -> None:
    with pytest.raises(HvdkitError, match=next(iter(wrong))):
        Cosine(**wrong)
