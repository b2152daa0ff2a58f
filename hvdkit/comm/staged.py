"""Reductions of several collectives, one after another, that need not block between them."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from hvdkit.comm.base import Handle
from hvdkit.tensors import Tensor

# Yields each handle that it needs the result of, is sent that result, and returns its own.
Stages = Generator[Handle, Tensor, Tensor]


class Staged:
    """The handle of `stages`: what lies between two collectives is done when `poll` or `wait`
    finds the first of them finished, so that nobody waits while there is other work."""

    def __init__(self, stages: Stages):
        self._stages = stages
        self._pending: Handle | None = None
        self._result: Tensor = None
        self._go_on(None)
        self.poll()

    def poll(self) -> bool:
        """Go on as far as can be without waiting; whether the result is there."""
        while self._pending is not None and self._pending.poll():
            self._go_on(self._pending.wait())
        return self._pending is None

    def wait_for_one(self) -> None:
        """Wait for the collective under way, if there is one, and go on to the next."""
        if self._pending is not None:
            self._go_on(self._pending.wait())

    def wait(self) -> Tensor:
        while self._pending is not None:
            self.wait_for_one()
        return self._result

    def _go_on(self, result: Tensor) -> None:
        try:
            self._pending = self._stages.send(result)
        except StopIteration as end:
            self._pending, self._result = None, end.value


class Together:
    """The handle of several `Staged`, which go on side by side; gives their results in order."""

    def __init__(self, handles: Sequence[Staged]):
        self._handles = handles

    def poll(self) -> bool:
        """Let all go on as far as they can; whether all results are there."""
        finished = [handle.poll() for handle in self._handles]  # each, and not to the first only
        return all(finished)

    def wait_for_one(self) -> None:
        """Wait for the next collective of the first that is not done."""
        for handle in self._handles:
            if not handle.poll():
                handle.wait_for_one()
                return

    def wait(self) -> list[Tensor]:
        while not self.poll():
            self.wait_for_one()
        return [handle.wait() for handle in self._handles]
