"""The bucket plan: every parameter once, in reverse, within the cap, without overlap."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvdkit.gradients.buckets import (
    ParamSpec,
    buckets_from_names,
    in_order,
    lateness,
    plan_buckets,
)

shapes = st.lists(st.integers(1, 40), max_size=3).map(tuple)
specs = st.lists(
    st.tuples(shapes, st.sampled_from(["float32", "float64"])), min_size=1, max_size=30
).map(lambda pairs: [ParamSpec(f"p{i}", *pair) for i, pair in enumerate(pairs)])
plans = {"specs": specs, "cap_mb": st.floats(1e-5, 0.1), "world_size": st.integers(1, 7)}


@given(**plans)
def test_every_parameter_is_in_one_bucket_of_its_dtype(
    specs: Any, cap_mb: Any, world_size: Any
) -> None:
    buckets = plan_buckets(specs, cap_mb=cap_mb, world_size=world_size)
    held = [param for bucket in buckets for param in bucket.params]
    assert sorted(held, key=lambda param: int(param.name[1:])) == specs
    assert all(param.dtype == bucket.dtype for bucket in buckets for param in bucket.params)
    assert [bucket.index for bucket in buckets] == list(range(len(buckets)))


@given(**plans)
def test_only_a_parameter_above_the_cap_passes_it(specs: Any, cap_mb: Any, world_size: Any) -> None:
    for bucket in plan_buckets(specs, cap_mb=cap_mb, world_size=world_size):
        nbytes = bucket.numel * np.dtype(bucket.dtype).itemsize
        assert nbytes <= cap_mb * 2**20 or len(bucket.params) == 1


@given(**plans)
def test_a_bucket_is_closed_only_when_full(specs: Any, cap_mb: Any, world_size: Any) -> None:
    buckets = plan_buckets(specs, cap_mb=cap_mb, world_size=world_size)
    for dtype in ("float32", "float64"):
        own = [bucket for bucket in buckets if bucket.dtype == dtype]
        for bucket, after in itertools.pairwise(own):
            together = sum(param.nbytes for param in (*bucket.params, after.params[0]))
            assert together > cap_mb * 2**20


@given(**plans)
def test_within_a_dtype_the_order_is_the_models_reversed(
    specs: Any, cap_mb: Any, world_size: Any
) -> None:
    buckets = plan_buckets(specs, cap_mb=cap_mb, world_size=world_size)
    for dtype in ("float32", "float64"):
        planned = [param for bucket in buckets for param in bucket.params if param.dtype == dtype]
        assert planned == [spec for spec in reversed(specs) if spec.dtype == dtype]


@given(**plans)
def test_parameters_lie_one_after_the_other_and_padding_makes_it_even(
    specs: Any, cap_mb: Any, world_size: Any
) -> None:
    for bucket in plan_buckets(specs, cap_mb=cap_mb, world_size=world_size):
        ends = [o + p.numel for o, p in zip(bucket.offsets, bucket.params, strict=True)]
        assert [0, *ends[:-1]] == list(bucket.offsets)
        assert ends[-1] == bucket.numel
        assert bucket.size % world_size == 0
        assert 0 <= bucket.size - bucket.numel < world_size


@given(**plans)
def test_a_plan_is_rebuilt_from_its_names(specs: Any, cap_mb: Any, world_size: Any) -> None:
    buckets = plan_buckets(specs, cap_mb=cap_mb, world_size=world_size)
    names = [list(bucket.names) for bucket in buckets]
    assert buckets_from_names(specs, names, world_size=world_size) == buckets


SPECS = [ParamSpec("a", (2,), "float32"), ParamSpec("b", (3,), "float32")]


@pytest.mark.parametrize(
    ("plan", "odd"),
    [
        ([["a"]], "b"),
        ([["a"], ["b", "c"]], "c"),
        ([["a", "b"], ["a"]], "a parameter twice"),
        ([], "'a', 'b'"),
    ],
)
def test_a_plan_of_another_model_is_refused(plan: list[list[str]], odd: str) -> None:
    with pytest.raises(ValueError, match=odd):
        buckets_from_names(SPECS, plan, world_size=1)


def test_a_cap_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="above 0"):
        plan_buckets(SPECS, cap_mb=0, world_size=1)


@given(**plans, data=st.data())
def test_buckets_planned_for_an_order_are_closed_in_that_order(
    specs: Any, cap_mb: Any, world_size: Any, data: Any
) -> None:
    """Those that never came are planned last, and nothing that did waits for one longer."""
    names = [spec.name for spec in specs]
    seen = data.draw(st.permutations(names))[: data.draw(st.integers(0, len(names)))]
    place = {name: i for i, name in enumerate([*seen, *sorted(set(names) - set(seen))])}
    buckets = plan_buckets(in_order(specs, seen), cap_mb=cap_mb, world_size=world_size)
    for dtype in ("float32", "float64"):
        planned = [p.name for bucket in buckets if bucket.dtype == dtype for p in bucket.params]
        assert [n for n in planned if n in seen] == sorted(
            set(planned) & set(seen), key=lambda n: place[n]
        )
        assert planned[: len(set(planned) & set(seen))] == [n for n in planned if n in seen]


def test_lateness_is_how_much_is_there_when_the_average_byte_leaves() -> None:
    specs = [ParamSpec(name, (10,), "float32") for name in "abcd"]
    pairs = buckets_from_names(specs, ["ab", "cd"], world_size=1)
    assert lateness(pairs, "abcd") == (0.5 + 1.0) / 2
    assert lateness(pairs, "acbd") == (0.75 + 1.0) / 2
    assert lateness(pairs, "abc") == lateness(pairs, "abcd"), (
        "what never comes is as late as can be"
    )
    singles = buckets_from_names(specs, "abcd", world_size=1)
    assert lateness(singles, "dbca") == lateness(singles, "abcd") == 2.5 / 4
