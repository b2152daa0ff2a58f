"""Updating the rows of a table that a step has touched, and no others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hvdkit.errors import HvdkitError
from hvdkit.optimizers import Optimizer
from hvdkit.strategies import Parameter
from hvdkit.tensors import Ops, Tensor, Variable


def check(tables: tuple[Parameter, ...], optimizer: Optimizer) -> None:
    """Raise `HvdkitError` if the rule cannot update single rows."""
    if tables and optimizer.layerwise:
        raise HvdkitError(
            f"{optimizer.name} needs the norm of whole parameters, and "
            f"{tables[0].spec.name} is a table of which only some rows are "
            "looked at: use another optimizer, or make the table dense (model.sparse=false)"
        )


def update_rows(
    ops: Ops,
    optimizer: Optimizer,
    table: Parameter,
    slots: Mapping[str, Variable],
    rows: Tensor,
    gradient: Tensor,
    multiplier: Tensor,
    scalars: Mapping[str, Tensor],
) -> None:
    """Apply the optimizer to the touched `rows`, with `gradient` times `multiplier`. The others
    keep their weights and slots: momentum and decay reach a row only with a gradient."""
    dtype = table.spec.dtype
    value, new_slots = optimizer.update(
        ops,
        ops.take_rows(table.variable, rows),
        gradient * _typed(ops, multiplier, dtype),
        {name: ops.take_rows(slot, rows) for name, slot in slots.items()},
        {name: _typed(ops, scalar, dtype) for name, scalar in scalars.items()},
        optimizer.weight_decay,
    )
    ops.put_rows(table.variable, rows, value)
    for name, new in new_slots.items():
        ops.put_rows(slots[name], rows, new)


def _typed(ops: Ops, number: Any, dtype: str) -> Any:
    """A number that may be multiplied with tensors of `dtype`."""
    return ops.cast(number, dtype) if hasattr(number, "dtype") else number
