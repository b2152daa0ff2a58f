"""A search space is what its overrides say: every point is within it, and an override again."""

from __future__ import annotations

import math

import optuna
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import assume, given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from hvdkit.errors import HvdkitError
from hvdkit.sweep.space import read_space


def value(word):
    """What Hydra reads in an override of one value."""
    (override,) = OverridesParser.create().parse_overrides([word])
    assert not override.is_sweep_override(), word
    return override.value()


def sampled(space, *, count=5):
    """Values of key x that a sampler draws."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(count):
        (word,) = space.own_overrides(study.ask(dict(space.varied)).params)
        yield value(word)


@pytest.fixture(autouse=True)
def quiet():
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(before)


@given(
    st.floats(-1e6, 1e6, allow_subnormal=False), st.floats(1e-6, 1e6), st.booleans(), st.booleans()
)
def test_values_of_an_interval_lie_in_it(low: float, width: float, log: bool, whole: bool) -> None:
    if whole:
        low = round(low)
        width = math.ceil(width)
    low, high = (abs(low) + 1 if log else low), (abs(low) + 1 if log else low) + width
    assume(low < high)
    text = f"interval({low},{high})"
    text = f"int({text})" if whole else text
    space = read_space([f"x=tag(log,{text})" if log else f"x={text}"])
    assert isinstance(space.varied["x"], IntDistribution if whole else FloatDistribution)
    assert getattr(space.varied["x"], "log") == log  # noqa: B009 (of both kinds)
    for x in sampled(space):
        assert isinstance(x, int if whole else float)
        assert low - abs(low) * 1e-11 <= x <= high + abs(high) * 1e-11


@given(st.integers(-50, 50), st.integers(-50, 50), st.integers(-9, 9).filter(bool))
def test_a_grid_over_a_range_is_hydras_range(start: int, stop: int, step: int) -> None:
    assume(range(start, stop, step))
    space = read_space([f"x=range({start},{stop},{step})"])
    points = [value(word) for point in space.grid() for word in space.own_overrides(point)]
    assert points == sorted(range(start, stop, step))
    assert set(sampled(space)) <= set(points)


@given(st.integers(1, 20), st.sampled_from([0.1, 0.25, 0.3, 1.5]))
def test_a_range_of_decimal_fractions_has_no_binary_tails(count: int, step: float) -> None:
    space = read_space([f"x=range(0.0,{count * step - step / 2:.6g},{step})"])
    points = [word for point in space.grid() for word in space.own_overrides(point)]
    assert points == [f"x={float(f'{i * step:.6g}')}" for i in range(count)]


def test_choices_come_back_as_they_were_said() -> None:
    said = "x=choice(1,0.5,true,adam,'a, b',[8,4],{a:1})"
    space = read_space([said, "y=a,b"])
    (whole,) = OverridesParser.create().parse_overrides([said])
    expected = [value(f"x={text}") for text in whole.sweep_string_iterator()]
    found = {tuple(space.own_overrides(point)) for point in space.grid()}
    assert len(found) == 7 * 2
    assert [value(x) for x in dict.fromkeys(x for x, _ in map(tuple, ordered(space)))] == expected
    assert expected == [1, 0.5, True, "adam", "a, b", [8, 4], {"a": 1}]


def ordered(space):
    return [space.own_overrides(point) for point in space.grid()]


def test_keys_and_fixed_values_are_kept_as_on_the_command_line() -> None:
    space = read_space(["a=1,2", "b=3", "+c=x,y", "~d", "a=interval(0,1)", "b='4'"])
    assert space.fixed == ("b='4'", "~d")
    assert set(space.varied) == {"a", "+c"}
    assert isinstance(space.varied["a"], FloatDistribution), "the later one holds"


def test_corners_have_every_choice_and_both_ends() -> None:
    space = read_space(["a=x,y,z", "b=interval(0,1)", "c=range(2,9,2)"])
    corners = list(space.corners())
    assert {c["a"] for c in corners} == {"x", "y", "z"}
    assert {c["b"] for c in corners} == {0, 1}
    assert {c["c"] for c in corners} == {2, 8}


def test_a_shuffled_sweep_is_the_same_space_each_time() -> None:
    spaces = [read_space(["x=shuffle(range(0,50))", "y=shuffle(a,b,c,d,e,f)"]) for _ in range(4)]
    assert len({repr(space) for space in spaces}) == 1
    assert isinstance(spaces[0].varied["y"], CategoricalDistribution)


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("x=choice(0.1", ["x=choice(0.1 cannot be read", "docs/sweeps.md"]),
        ("x=foo(1)", ["x=foo(1) cannot be read: Unknown function 'foo'", "interval"]),
        ("x=interval(1)", ["x=interval(1)", "'end'"]),
        ("x=interval(5,1)", ["x=interval(5,1)", "interval(LOW,HIGH)"]),
        ("x=interval(0,.inf)", ["x=interval(0,.inf)"]),
        ("x=tag(log,interval(0,1))", ["must be above 0, not 0"]),
        ("x=tag(lg,interval(1,2))", ["tag lg is not known, only log is"]),
        ("x=tag(log,choice(1,2))", ["tag log is for interval and range"]),
        ("x=tag(log,range(1,9,2))", ["by 1"]),
        ("x=range(5,1)", ["no value lies in this range"]),
        ("x=range(1,5,0)", ["no value lies in this range"]),
        ("x=1", ["nothing to search over"]),
    ],
)
def test_what_is_no_space_is_refused(word: str, says: list[str]) -> None:
    with pytest.raises(HvdkitError) as caught:
        read_space([word])
    assert all(part in str(caught.value) for part in says), caught.value


def test_a_grid_over_an_interval_is_refused() -> None:
    with pytest.raises(HvdkitError, match="x is an interval, and a grid needs values"):
        list(read_space(["x=interval(0,1)"]).grid())
