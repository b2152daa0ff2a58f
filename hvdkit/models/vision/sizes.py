"""What both twins of a model work out from the size of its images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hvdkit.errors import HvdkitError


def require_halvings(size: Sequence[int], times: int) -> None:
    """Raise `HvdkitError` unless images of `size` (height, width) can be halved that often."""
    if min(size) < 2**times:
        raise HvdkitError(
            f"the model halves its images {times} times, which {size[0]} x {size[1]} ones are too "
            f"small for: give images of {2**times} x {2**times} or more, or fewer model.widths"
        )


def patches(size: Sequence[int], patch: int) -> int:
    """How many square patches cut up an image; `HvdkitError` unless it is whole numbers of them."""
    if any(side % patch for side in size):
        raise HvdkitError(
            f"model.patch={patch} does not divide images of {size[0]} x {size[1]}: choose a patch "
            "that does, or another image size"
        )
    return (size[0] // patch) * (size[1] // patch)


def averaging(size: int, cells: int) -> np.ndarray:
    """(cells, size): row i averages the i-th of `cells` even, possibly overlapping parts.

    Part i is [floor(i size / cells), ceil((i + 1) size / cells)), as in torch's adaptive
    pooling, for sizes above and below `cells`.
    """
    matrix = np.zeros((cells, size))
    for i in range(cells):
        start, stop = i * size // cells, -(-(i + 1) * size // cells)
        matrix[i, start:stop] = 1 / (stop - start)
    return matrix
