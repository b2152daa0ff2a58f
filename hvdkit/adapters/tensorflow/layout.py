"""Keras's variable names and array layouts, to the canonical ones and back.

Canonical is torch's: `layer.weight` of shape (out, in, ...), `norm.weight` and `norm.bias`.
A Keras kernel is (..., in, out), and its name depends on the kind of its layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import keras
import numpy as np

from hvdkit.errors import HvdkitError

_NAMES = {
    "kernel": "weight",
    "gamma": "weight",
    "embeddings": "weight",
    "bias": "bias",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
# Dense: (in, out) -> (out, in). Convolutions: (space..., in, out) -> (out, in, space...).
_TRANSPOSED = (keras.layers.Dense, keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)


@dataclass(frozen=True)
class Place:
    """A Keras variable, its canonical name, and how its axes are permuted there."""

    name: str
    variable: keras.Variable
    axes: tuple[int, ...] | None

    @property
    def shape(self) -> tuple[int, ...]:
        own = tuple(self.variable.shape)
        return own if self.axes is None else tuple(own[axis] for axis in self.axes)

    def to_canonical(self, array: np.ndarray) -> np.ndarray:
        return array if self.axes is None else np.transpose(array, self.axes)

    def from_canonical(self, array: np.ndarray) -> np.ndarray:
        return array if self.axes is None else np.transpose(array, np.argsort(self.axes))


def random_states(model: keras.Model) -> list[keras.Variable]:
    """The states of a model's random generators (of dropout, say), layer by layer."""
    return [
        generator.state
        for layer in model._flatten_layers()
        for generator in getattr(layer, "_seed_generators", [])
    ]


def places(model: keras.Model) -> list[Place]:
    """Every variable of a built model but its random states, in its own order, one place each.

    Raises `HvdkitError` if two variables come by the same canonical name: they would overwrite
    each other in a checkpoint.
    """
    owners = {
        id(variable): layer
        for layer in model._flatten_layers()
        for variable in layer._trainable_variables + layer._non_trainable_variables
    }
    random = {id(state) for state in random_states(model)}
    kept = [variable for variable in model.variables if id(variable) not in random]
    found = [_place(variable, owners.get(id(variable))) for variable in kept]
    names = [place.name for place in found]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise HvdkitError(
            f"two variables of the model are called {doubled[0]}: give their layers different names"
        )
    return found


def _place(variable: keras.Variable, layer: keras.Layer | None) -> Place:
    *scopes, own = variable.path.split("/")
    name = ".".join([*scopes[1:], _NAMES.get(own, own)])
    axes = None
    if own == "kernel" and isinstance(layer, _TRANSPOSED):
        rank = len(variable.shape)
        axes = (rank - 1, rank - 2, *range(rank - 2))
    return Place(name, variable, axes)
