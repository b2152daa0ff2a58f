"""Adding gradients by how much they agree: between their mean and their sum.

Maleki et al., "Scaling distributed training with adaptive summation" (MLSys 2021,
arXiv:2006.02924), with their vector-halving, distance-doubling exchange.
"""

from __future__ import annotations

from typing import TypeAlias

from hvdkit.comm import Stages
from hvdkit.errors import HvdkitError
from hvdkit.gradients.compression import Compression, NoCompression, Part
from hvdkit.strategies.allreduce import AllReduce
from hvdkit.tensors import Tensor

Places: TypeAlias = dict[int, slice]  # by number of a parameter in its bucket


class Adasum(AllReduce):
    """Combine two gradients a, b as (1 - ab / 2aa) a + (1 - ab / 2bb) b, and pairs of pairs on.

    Where they are parallel that is their mean, where they are orthogonal their sum; it is done
    by itself for every parameter, which Horovod's own Adasum would only do for tensors that are
    sent one by one. What is combined is each rank's mean gradient, so the learning rate of one
    rank's batch stays right on many. It takes 2, 4, 8 ... ranks, and no compression or tables.
    """

    def __init__(
        self,
        *,
        compression: Compression | None = None,
        bucket_mb: float = 4.0,
        learn_order: bool = True,
    ):
        super().__init__(compression=compression, bucket_mb=bucket_mb, learn_order=learn_order)
        self.finite_below = None
        if not isinstance(self.compression, NoCompression):
            raise HvdkitError(
                "strategy=adasum compares whole gradients, which are sent as they are: leave "
                "compression=none, or use strategy=allreduce"
            )

    def setup(self, params, comm, ops, *, plan=None):
        if comm.size & (comm.size - 1):
            raise HvdkitError(
                f"strategy=adasum pairs ranks, and pairs of pairs: it needs 2, 4, 8, 16 ... of "
                f"them, not {comm.size}; start another number, or use strategy=allreduce"
            )
        super().setup(params, comm, ops, plan=plan)
        if self.tables:
            raise HvdkitError(
                f"strategy=adasum combines whole gradients, and {self.tables[0].spec.name} is a "
                "table whose rows are summed: make it dense (model.sparse=false), or use "
                "strategy=allreduce"
            )

    def message_mb(self, chunk_mb):
        return None  # what is combined is whole parameters

    def shards(self):
        return self.comm.size

    def stages(self, part: Part, flat: Tensor, compression: Compression) -> Stages:
        comm, ops = self.traffic, self.ops
        vector, distance = flat, 1
        while distance < comm.size:
            # The ranks of one block hold a vector among them, those of the next another; the two
            # that hold the same stretch of both share that stretch out.
            above = bool(comm.rank & distance)
            half = vector.shape[0] // 2
            given, kept = vector[:half], vector[half:]
            if not above:
                given, kept = kept, given
            splits = [0] * comm.size
            splits[comm.rank ^ distance] = half
            name = f"{part.key}.{distance}"
            other = yield comm.all_to_all(given, name=name, splits=splits)
            other = ops.reshape(other, (half,))
            first, second = (other, kept) if above else (kept, other)
            places = _places(part, _start(comm.rank, part.size, 2 * distance), half)
            products = self._products(first, second, places, len(part.bucket.params))
            products = yield comm.all_gather(products, name=f"{name}.products")
            total = self._over_both_blocks(products, distance)
            vector = self._combined(first, second, places, total)
            distance *= 2
        whole = yield comm.all_gather(vector, name=f"{part.key}.whole")
        size = part.size // comm.size
        order = sorted(range(comm.size), key=lambda rank: _start(rank, part.size, comm.size))
        whole = ops.concat([whole[rank * size : (rank + 1) * size] for rank in order])
        # A rank's gradient here is its share of the whole batch's mean; the sum stands for that.
        return whole * float(comm.size)

    def _products(self, first: Tensor, second: Tensor, places: Places, count: int) -> Tensor:
        """(aa, bb, ab) of this stretch of each parameter, one after the other."""
        ops = self.ops
        found = []
        for i in range(count):
            if i not in places:
                found.append(ops.zeros((3,), "float64"))
                continue
            a, b = first[places[i]], second[places[i]]
            for product in (a * a, b * b, a * b):
                found.append(ops.reshape(ops.cast(ops.sum(product), "float64"), (1,)))
        return ops.concat(found)

    def _over_both_blocks(self, products: Tensor, distance: int) -> Tensor:
        """The products of whole parameters: the sums over all ranks that hold a stretch."""
        by_rank = self.ops.reshape(products, (self.comm.size, -1))
        first = self.comm.rank // (2 * distance) * (2 * distance)
        total = by_rank[first]
        for rank in range(first + 1, first + 2 * distance):
            total = total + by_rank[rank]
        return total

    def _combined(self, first: Tensor, second: Tensor, places: Places, total: Tensor) -> Tensor:
        ops, end, parts = self.ops, 0, []
        for i, place in places.items():
            aa, bb, ab = (total[3 * i + j] for j in range(3))
            a, b = first[place], second[place]
            parts.append(a * self._weight(ab, aa, a) + b * self._weight(ab, bb, b))
            end = place.stop
        if end < first.shape[0]:  # padding, which is zero
            parts.append(first[end:])
        return ops.concat(parts)

    def _weight(self, product: Tensor, square: Tensor, like: Tensor) -> Tensor:
        ops = self.ops
        divisor = ops.where(square > 0, 2 * square, square + 1)  # a zero vector has weight 1
        return ops.cast(1 - product / divisor, ops.dtype(like))


def _places(part: Part, start: int, length: int) -> Places:
    """Where in the stretch of `length` from `start` on the parameters are that it touches."""
    found = {}
    for i, (_, _, here) in enumerate(part.pieces()):
        low, high = max(here.start, start), min(here.stop, start + length)
        if low < high:
            found[i] = slice(low - start, high - start)
    return found


def _start(rank: int, size: int, ranks: int) -> int:
    """Where the stretch begins that `rank` holds once blocks of `ranks` share their vectors."""
    start, distance = 0, 1
    while distance < ranks:
        size //= 2
        start += size if rank & distance else 0
        distance *= 2
    return start
