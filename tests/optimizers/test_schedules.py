"""Learning rates: the published scaling rules, a warm-up that climbs, curves without jumps."""

from __future__ import annotations

import itertools
import logging
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvdkit.errors import HvdkitError
from hvdkit.optimizers import Constant, Cosine, Linear, Polynomial, Schedule, Step
from hvdkit.schema import check_node

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


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        (Constant(), [1, 1, 1, 1, 1]),
        (Linear(), [1, 0.75, 0.5, 0.25, 0]),
        (Linear(final=0.2), [1, 0.8, 0.6, 0.4, 0.2]),
        (Polynomial(), [1, 0.5625, 0.25, 0.0625, 0]),
        (Polynomial(power=1.0, final=0.5), [1, 0.875, 0.75, 0.625, 0.5]),
        (Polynomial(power=0.5), [1, math.sqrt(0.75), math.sqrt(0.5), 0.5, 0]),
        (Cosine(), [1, 0.5 + 0.25 * math.sqrt(2), 0.5, 0.5 - 0.25 * math.sqrt(2), 0]),
        (Step(milestones=[2.0, 6.0], gamma=0.5), [1, 0.5, 0.5, 0.25, 0.25]),
        (Step(milestones=[]), [1, 1, 1, 1, 1]),
    ],
    ids=repr,
)
@pytest.mark.parametrize("warmup", [0, 20])
def test_quarters_of_a_run(schedule: Any, factors: list[float], warmup: int) -> None:
    # 80 steps after the warm-up are 8 epochs; a milestone counts from the run's start.
    if isinstance(schedule, Step):
        more: dict[str, Any] = {"milestones": [m + warmup / 10 for m in schedule.milestones]}
        schedule = Step(gamma=schedule.gamma, warmup_steps=warmup, **more)
    elif warmup:
        curve = {key: value for key, value in vars(schedule).items() if "warmup" not in key}
        schedule = type(schedule)(warmup_steps=warmup, **curve)
    for quarter, factor in enumerate(factors):
        found = rate(schedule, warmup + 20 * quarter, num_steps=warmup + 80)
        assert found == pytest.approx(BASE * factor, abs=1e-15)


@given(
    records=st.integers(1, 10_000),
    batch=st.integers(1, 512),
    milestone=st.integers(1, 90),
)
def test_a_milestone_is_the_first_step_of_its_epoch(
    records: Any, batch: Any, milestone: Any
) -> None:
    schedule = Step(milestones=[milestone], gamma=0.1)
    first = -(-milestone * records // batch)  # the first step with no sample of the epoch before
    for step, factor in ((first - 1, 1.0), (first, 0.1)):
        if step >= 0:
            found = rate(schedule, step, num_steps=first + 5, steps_per_epoch=records / batch)
            assert found == pytest.approx(BASE * factor)


def test_milestones_may_come_in_any_order() -> None:
    one, other = Step(milestones=[3.0, 1.0, 2.0]), Step(milestones=[1.0, 2.0, 3.0])
    assert rates(one, num_steps=40) == rates(other, num_steps=40)
    assert rates(one, num_steps=40)[-1] == pytest.approx(BASE * 1e-3)


@pytest.mark.parametrize(
    ("epochs", "steps_per_epoch", "steps"),
    [(5.0, 156.25, 781), (1.5, 10, 15), (0.5, 22.45, 11), (0.01, 10, 0), (0.0, 10, 0)],
)
def test_warm_up_in_epochs_is_the_nearest_number_of_steps(
    epochs: float, steps_per_epoch: float, steps: int
) -> None:
    in_epochs = Cosine(warmup_steps=None, warmup_epochs=epochs, scale_lr="linear")
    in_steps = Cosine(warmup_steps=steps, scale_lr="linear")
    more: dict[str, Any] = {"num_steps": 900, "workers": 8, "steps_per_epoch": steps_per_epoch}
    assert rates(in_epochs, **more) == rates(in_steps, **more)


def test_the_edges_of_a_warm_up() -> None:
    schedule = Linear(warmup_steps=4, scale_lr="linear")
    found = rates(schedule, num_steps=8, workers=3)
    assert found == pytest.approx([BASE * x for x in (1.5, 2, 2.5, 3, 3, 2.25, 1.5, 0.75)])
    found = rates(Linear(warmup_steps=1), num_steps=3, workers=3)
    assert found == pytest.approx([BASE, BASE, BASE / 2])


@pytest.mark.parametrize("none", [{}, {"warmup_steps": None}, {"warmup_steps": 0}])
def test_no_warm_up_starts_at_the_full_rate(none: dict[str, Any]) -> None:
    assert rate(Cosine(**none), 0, num_steps=10) == BASE


def test_a_warm_up_is_given_in_one_way() -> None:
    words = "warmup_steps=5 and .*warmup_epochs=2.* cannot both be given: set one of them to null"
    with pytest.raises(HvdkitError, match=words):
        Step(milestones=[1.0], warmup_steps=5, warmup_epochs=2.0)
    node = {"warmup_steps": 5, "warmup_epochs": 2.0, "scale_lr": "none"}
    with pytest.raises(HvdkitError, match=f"schedule.{words}"):
        check_node(Constant, node, where="schedule")
    check_node(Constant, {**node, "warmup_steps": None}, where="schedule")
    assert Constant(warmup_steps=0, warmup_epochs=2.0).warmup_epochs == 2.0


def test_a_run_that_is_all_warm_up_has_a_rate(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="hvdkit")
    assert rates(Cosine(warmup_steps=51), num_steps=17)[-1] == pytest.approx(BASE / 3)
    (record,) = caplog.records  # one, of 17 steps
    assert "the warm-up takes 51 steps and the run 17" in record.getMessage()


def test_a_warm_up_as_long_as_the_run_is_nothing_to_tell(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="hvdkit")
    assert rates(Cosine(warmup_steps=19), num_steps=19)[-1] == pytest.approx(BASE)
    assert not caplog.records


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (Cosine, {"warmup_steps": -1}),
        (Cosine, {"warmup_epochs": -0.5}),
        (Cosine, {"scale_lr": "cubic"}),
        (Cosine, {"final": -0.1}),
        (Linear, {"final": -0.1}),
        (Polynomial, {"power": 0.0}),
        (Step, {"gamma": 0.0, "milestones": [1.0]}),
        (Step, {"milestones": [30.0, 0.0]}),
    ],
)
def test_values_out_of_range_are_refused(kind: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(HvdkitError, match=next(iter(wrong))):
        kind(**wrong)
