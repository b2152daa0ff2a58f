"""Summing what no collective can sum: encoded messages, decoded where they arrive.

Two ranks swap their messages whole. More of them go in two steps, as a ring's allreduce does:
each rank receives everyone's message about its own part, sums it in full precision, encodes the
sum, and all gather that. Either way all ranks decode the same bytes in the same order, so their
sums are equal to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence

from hvdkit.comm import Comm, Handle
from hvdkit.tensors import Ops, Tensor

Message = tuple[Tensor, ...]  # tensors with the same first dimension, of rows


def exchange(
    message: Message,
    *,
    key: str,
    comm: Comm,
    ops: Ops,
    add: Callable[[Sequence[Message], bool], Tensor],
    encode: Callable[[Tensor, int], Message],
) -> Generator[Handle, Tensor, Tensor]:
    """The sum over ranks of `message`, whose number of rows `comm.size` divides.

    `add(messages, last)` decodes several and sums them, for the last time or not; `encode`
    encodes such a sum of the rows from its second argument on.
    """
    rows = message[0].shape[0]
    if comm.size <= 2:
        gathered = yield from _gathered(message, f"{key}.whole", comm, ops)
        return add(_by_rank(gathered, comm.size, ops), True)
    part = rows // comm.size
    splits = [part] * comm.size
    started = [
        comm.all_to_all(x, name=f"{key}.parts.{i}", splits=splits) for i, x in enumerate(message)
    ]
    received = []
    for handle, x in zip(started, message, strict=True):
        received.append(ops.reshape((yield handle), x.shape))
    total = add(_by_rank(received, comm.size, ops), False)
    sums = encode(total, part * comm.rank)
    whole = yield from _gathered(sums, f"{key}.sums", comm, ops)
    return add([tuple(whole)], True)


def _gathered(
    message: Message, name: str, comm: Comm, ops: Ops
) -> Generator[Handle, Tensor, list[Tensor]]:
    """Every rank's message, one after the other."""
    started = [comm.all_gather(x, name=f"{name}.{i}") for i, x in enumerate(message)]
    gathered = []
    for handle, x in zip(started, message, strict=True):
        shape = (comm.size * x.shape[0], *x.shape[1:])  # which a graph does not know
        gathered.append(ops.reshape((yield handle), shape))
    return gathered


def _by_rank(tensors: Sequence[Tensor], ranks: int, ops: Ops) -> list[Message]:
    apart = [ops.reshape(x, (ranks, x.shape[0] // ranks, *x.shape[1:])) for x in tensors]
    return [tuple(x[rank] for x in apart) for rank in range(ranks)]
