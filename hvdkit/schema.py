"""Fields that know which values they take, and the check that says so in words.

A component's keyword-only dataclass is the schema of its config group: `check` runs in its
constructor and, through `config.py`, on composed YAML before anything is imported or
launched.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from typing import Any, Literal, Union, get_args, get_origin

from hvdkit.errors import HvdkitError

_NOTHING = dataclasses.MISSING


@dataclasses.dataclass(frozen=True)
class Bounds:
    """low <= value <= high; `open_low`, `open_high` exclude the ends."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def holds(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return above and below

    def __str__(self) -> str:
        low = f"{'above' if self.open_low else 'at least'} {self.low:g}"
        high = f"{'below' if self.open_high else 'at most'} {self.high:g}"
        return " and ".join(
            text for text, end in ((low, self.low), (high, self.high)) if math.isfinite(end)
        )


def _field(default: Any, **metadata: Any) -> Any:
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def positive(default: Any = _NOTHING) -> Any:
    """A field above 0."""
    return _field(default, bounds=Bounds(low=0, open_low=True))


def at_least(low: float, default: Any = _NOTHING) -> Any:
    """A field of `low` or more."""
    return _field(default, bounds=Bounds(low=low))


def between(low: float, high: float, default: Any = _NOTHING) -> Any:
    """A field in [low, high)."""
    return _field(default, bounds=Bounds(low=low, high=high, open_high=True))


def choice(*allowed: str, default: Any = _NOTHING) -> Any:
    """A field that is one of the given words."""
    return _field(default, choices=allowed)


def check(instance: Any, *, where: str | None = None) -> None:
    """Raise `HvdkitError` for the first field of a dataclass instance with a wrong value."""
    where = where or type(instance).__name__
    hints = typing.get_type_hints(type(instance))
    for field in dataclasses.fields(instance):
        check_value(
            f"{where}.{field.name}", getattr(instance, field.name), hints[field.name], field
        )


def check_node(schema: type, node: dict[str, Any], *, where: str) -> None:
    """Check a config node against a dataclass: unknown, missing, mistyped, out of range."""
    fields = {field.name: field for field in dataclasses.fields(schema) if field.init}
    hints = typing.get_type_hints(schema)
    for key in node:
        if key not in fields and not key.startswith("_"):
            raise HvdkitError(
                f"unknown key {where}.{key}{nearest(key, fields)}\n"
                f"{where} takes: {', '.join(sorted(fields))}"
            )
    for name, field in fields.items():
        if name not in node or node[name] == "???":
            required = field.default is _NOTHING and field.default_factory is _NOTHING
            if required:
                raise HvdkitError(f"{where}.{name} has no value: set {where}.{name}=...")
            continue
        check_value(f"{where}.{name}", node[name], hints[name], field)
    if hasattr(schema, "check_together"):  # what one value says about another
        schema.check_together(node, where)


def check_value(where: str, value: Any, hint: Any, field: dataclasses.Field) -> None:
    """Raise `HvdkitError` unless `value` has the type `hint` and keeps to the field's limits."""
    if not _fits(value, hint):
        raise HvdkitError(f"{where}={value!r} is not {_words(hint)}")
    choices = field.metadata.get("choices")
    if choices and value is not None and value not in choices:
        raise HvdkitError(
            f"{where}={value!r} is not one of {', '.join(choices)}{nearest(str(value), choices)}"
        )
    bounds: Bounds | None = field.metadata.get("bounds")
    if bounds is None or value is None:
        return
    for number in value if isinstance(value, (list, tuple)) else [value]:
        if (isinstance(number, float) and math.isnan(number)) or not bounds.holds(number):
            raise HvdkitError(f"{where}={value!r} must be {bounds}")


def nearest(word: str, known: Any) -> str:
    """A hint such as " (did you mean adam?)", or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]}?)" if close else ""


def _fits(value: Any, hint: Any) -> bool:
    origin = get_origin(hint)
    if hint is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(_fits(value, option) for option in get_args(hint))
    if origin is Literal:
        return value in get_args(hint)
    if origin in (list, tuple):
        return isinstance(value, (list, tuple)) and all(
            _fits(item, get_args(hint)[0]) for item in value
        )
    if origin is dict or hint is dict:
        return isinstance(value, dict)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _words(hint: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(
            "null" if option is type(None) else _words(option) for option in get_args(hint)
        )
    if origin is Literal:
        return "one of " + ", ".join(map(str, get_args(hint)))
    if origin in (list, tuple):
        return f"a list, each item {_words(get_args(hint)[0])}"
    return names.get(hint, str(hint))
