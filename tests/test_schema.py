"""Every kind of wrong value is refused in words: where, what, what is allowed."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvdkit.errors import HvdkitError
from hvdkit.schema import Bounds, at_least, between, check, check_node, choice, nearest, positive


@dataclass(kw_only=True)
class Options:
    lr: float = positive()
    momentum: float = between(0.0, 1.0, default=0.9)
    steps: int | None = at_least(1, default=None)
    widths: list[int] = positive(default=[8])
    kind: str = choice("group", "batch", default="group")
    order: Literal["up", "down"] = "up"
    shuffle: bool = True
    path: str = "here"
    source: dict[str, Any] | None = None


GOOD: dict[str, Any] = {
    "lr": 1,
    "momentum": 0.0,
    "steps": 3,
    "widths": [1, 2],
    "kind": "batch",
    "order": "down",
    "shuffle": False,
    "path": "there",
    "source": {"_target_": "x"},
}
WRONG = [
    ("lr", "fast", "a number"),
    ("lr", True, "a number"),
    ("lr", 0, "above 0"),
    ("lr", -1.0, "above 0"),
    ("lr", math.nan, "above 0"),
    ("lr", None, "a number"),
    ("momentum", 1.0, "at least 0 and below 1"),
    ("momentum", -0.1, "at least 0"),
    ("steps", 0, "at least 1"),
    ("steps", 1.5, "a whole number or null"),
    ("steps", True, "a whole number or null"),
    ("widths", [4, 0], "above 0"),
    ("widths", [4, "8"], "a list, each item a whole number"),
    ("widths", 8, "a list, each item a whole number"),
    ("kind", "bach", "group, batch (did you mean batch?)"),
    ("kind", 3, "a text"),
    ("order", "sideways", "one of up, down"),
    ("shuffle", "yes", "true or false"),
    ("shuffle", 1, "true or false"),
    ("path", 7, "a text"),
    ("source", [1], "null"),
]


def test_right_values_pass() -> None:
    check_node(Options, GOOD, where="data")
    check_node(Options, {"lr": 0.1}, where="data")
    check(Options(**GOOD))


@pytest.mark.parametrize(("key", "value", "allowed"), WRONG)
def test_a_wrong_value_is_named_with_what_is_allowed(key: str, value: Any, allowed: str) -> None:
    with pytest.raises(HvdkitError, match=re.escape(allowed)) as caught:
        check_node(Options, {**GOOD, key: value}, where="data")
    assert str(caught.value).startswith(f"data.{key}={value!r}")
    with pytest.raises(HvdkitError, match=re.escape(allowed)):
        check(Options(**{**GOOD, key: value}))


def test_an_unknown_key_is_named_with_the_nearest() -> None:
    with pytest.raises(HvdkitError, match="did you mean momentum") as caught:
        check_node(Options, {**GOOD, "momentun": 0.5}, where="optimizer")
    assert "unknown key optimizer.momentun" in str(caught.value)
    assert all(key in str(caught.value) for key in GOOD)


@pytest.mark.parametrize("node", [{}, {"lr": "???"}])
def test_a_missing_value_says_how_to_set_it(node: dict) -> None:
    with pytest.raises(HvdkitError, match=re.escape("set optimizer.lr=...")):
        check_node(Options, node, where="optimizer")


def test_hydras_own_keys_are_left_alone() -> None:
    check_node(Options, {**GOOD, "_target_": "x", "_convert_": "all"}, where="data")


@given(st.floats(), st.floats(allow_nan=False), st.floats(allow_nan=False))
def test_bounds_hold_what_they_say(value: float, low: float, high: float) -> None:
    closed = Bounds(low=low, high=high)
    assert closed.holds(value) == (low <= value <= high)
    half_open = Bounds(low=low, high=high, open_high=True)
    assert half_open.holds(value) == (low <= value < high)


def test_nearest_is_silent_about_strangers() -> None:
    assert nearest("adm", ["adam", "sgd"]) == " (did you mean adam?)"
    assert nearest("qqqq", ["adam", "sgd"]) == ""
