"""A bucket's memory: flat buffers, with parameters and gradients as views into them.

Two ways for a gradient to come into the flat buffer of its bucket, whichever moves less:

- **Views.** Each `grad` is a view into the buffer, which starts a step as zeros, and autograd
  adds to it. The zeros cost little, because they are written where the optimizer has just read
  the sums, in cache-sized pieces, and nothing has to be collected when the bucket is complete.
- **Adopted.** A parameter that fills its bucket alone starts without a gradient, autograd hands
  over the tensor that it has computed, and that is reduced in place: nothing is copied at all.

On a GPU an addition a parameter would be a kernel launch each, so there a bucket's gradients
are handed over, too, and copied in one launch.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from hvdkit.errors import HvdkitError
from hvdkit.gradients.buckets import Bucket

# Small enough for a piece of parameters, gradients, slots and temporaries to stay in a core's
# L2 cache; measured by benchmarks/step.py.
_PIECE = 128 * 1024


@dataclass
class Buffers:
    """The memory of one bucket, and where its gradients stand in this backward pass."""

    bucket: Bucket
    params: list[torch.nn.Parameter]
    values: torch.Tensor
    slots: dict[str, torch.Tensor]
    decay: torch.Tensor | float
    missing: set[int] = field(default_factory=set)  # ids of parameters still to come
    left: bool = False  # whether the bucket has been handed over in this pass
    # Whether it waits for the pass to end: the first does, to tell if a gradient comes in parts.
    late: bool = True
    _in_parts: bool = False
    _zeros: int = 0  # how many elements of `grads`, from its start, are zeros already

    def __post_init__(self) -> None:
        alone = len(self.params) == 1 and self.bucket.size == self.params[0].numel()
        self.views = self.values.device.type == "cpu" and not alone

    @functools.cached_property
    def grads(self) -> torch.Tensor:
        return torch.zeros_like(self.values)

    @functools.cached_property
    def grad_views(self) -> list[torch.Tensor]:
        return [view(self.grads, self.bucket, i) for i in range(len(self.params))]

    def slots_at(self, here: slice) -> dict[str, torch.Tensor]:
        return {name: slot[here] for name, slot in self.slots.items()}

    def begin(self) -> None:
        """Make ready for a step's first backward pass."""
        if not self.views:
            for param in self.params:
                param.grad = None
            return
        if self._zeros < self.bucket.size:
            self.grads.zero_()
        self._zeros = 0
        for param, place in zip(self.params, self.grad_views, strict=True):
            if param.grad is not place:  # the first step, or its owner has taken it away
                param.grad = place

    def expect_all(self) -> None:
        """The pass that completes the bucket begins."""
        self.missing = {id(param) for param in self.params}
        self.left = False

    def came(self, param: torch.nn.Parameter, name: str) -> bool:
        """Take note of a gradient; whether the bucket can leave now.

        A parameter that reentrant checkpoints use twice is told twice of a part of its gradient.
        """
        if id(param) in self.missing:
            self.missing.remove(id(param))
            return not self.missing and not self.late
        self._in_parts = True
        if self.left:
            raise HvdkitError(
                f"a second part of the gradient of {name} came after its bucket had left, which "
                "did not happen in the first step: use torch.utils.checkpoint with "
                "use_reentrant=False, or let every step use the same parts of the model"
            )
        return False

    def end(self) -> None:
        """The pass is over, and nothing more comes."""
        self.late = self._in_parts

    def gather(self) -> torch.Tensor:
        """Let the bucket leave: its gradients in one buffer, with each `grad` a view into it."""
        self.left = True
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.params]
        if self.views:
            if any(a is not b for a, b in zip(grads, self.grad_views, strict=True)):
                self._collect(grads)  # the model's owner has put others there
            return self.grads
        if len(grads) == 1 and self.bucket.size == grads[0].numel() and _is_alone(grads[0]):
            self.params[0].grad = grads[0]
            return grads[0].view(-1)  # autograd's own tensor is the buffer
        self._collect(grads)
        return self.grads

    def _collect(self, grads: list[torch.Tensor]) -> None:
        torch._foreach_copy_(self.grad_views, grads)
        for param, place in zip(self.params, self.grad_views, strict=True):
            param.grad = place

    def used(self, gradient: torch.Tensor, here: slice) -> None:
        """The optimizer is done with a piece: make it zeros while the cache still holds it."""
        if self.views and gradient.data_ptr() == self.grads.data_ptr():
            gradient[here].zero_()
            self._zeros = here.stop


def view(flat: torch.Tensor, bucket: Bucket, i: int) -> torch.Tensor:
    """Parameter i of a bucket, in its own shape, within a flat buffer."""
    spec, start = bucket.params[i], bucket.offsets[i]
    return flat[start : start + spec.numel].view(spec.shape)


def pieces(size: int, on_cpu: bool) -> Iterator[slice]:
    """[0, size) in runs that fit a core's cache; whole on a GPU."""
    step = _PIECE if on_cpu else size
    for start in range(0, size, step):
        yield slice(start, min(start + step, size))


def store_all(
    values: torch.Tensor,
    slots: dict[str, torch.Tensor],
    new: tuple[torch.Tensor, dict[str, torch.Tensor]],
) -> None:
    """Put a rule's new values and slots in their places, where it has not done so itself."""
    new_values, new_slots = new
    _store(values, new_values)
    for name, value in new_slots.items():
        _store(slots[name], value)


def _store(place: torch.Tensor, value: torch.Tensor) -> None:
    if value.data_ptr() != place.data_ptr():  # else the rule has put it there
        place.copy_(value)


def _is_alone(grad: torch.Tensor) -> bool:
    """Whether nothing else sees the memory of a gradient that autograd has handed over.

    It may be a view of what the backward pass still needs, or another parameter's gradient as
    well (of `a + b`, say): then it must not be reduced in place. Without torch's private count
    of a storage's users nothing is known, and the answer is no.
    """
    count = getattr(torch._C, "_storage_Use_Count", None)
    if count is None or not grad.is_contiguous():
        return False
    storage = grad.untyped_storage()  # the gradient itself and this name are two users
    return count(storage._cdata) == 2 and storage.nbytes() == grad.nbytes
