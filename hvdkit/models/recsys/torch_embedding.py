"""A table of which a step reads and writes a few rows."""

from __future__ import annotations

from torch import nn


class Embedding(nn.Embedding):
    """Integers below `rows`, of any shape, to vectors of `dimension`.

    With `sparse`, the gradient is rows, on its way through the strategy and the optimizer too.
    Rows start as 0: the models say how theirs start, and drawing ten million that are then
    overwritten takes seconds.
    """

    def __init__(self, rows: int, dimension: int, *, sparse: bool = False):
        super().__init__(rows, dimension, sparse=sparse)

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
