"""How gradients are encoded on their way, and which collectives may then carry them.

Each encoding exists once for both frameworks, over `Ops` and `Comm`. Imports buckets and comm.
"""

from hvdkit.gradients.compression.base import Compression, ErrorFeedback, NoCompression, Part
from hvdkit.gradients.compression.half import BF16Compression, FP16Compression
from hvdkit.gradients.compression.int8 import Int8Compression
from hvdkit.gradients.compression.powersgd import PowerSGDCompression
from hvdkit.gradients.compression.topk import TopKCompression

__all__ = [
    "BF16Compression",
    "Compression",
    "ErrorFeedback",
    "FP16Compression",
    "Int8Compression",
    "NoCompression",
    "Part",
    "PowerSGDCompression",
    "TopKCompression",
]
