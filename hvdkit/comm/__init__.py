"""Collectives: what the strategies speak, whatever carries them."""

from hvdkit.comm.base import Comm, Done, Group, Handle, part_sizes
from hvdkit.comm.solo import SoloComm
from hvdkit.comm.staged import Staged, Stages, Together
from hvdkit.comm.subset import Subset
from hvdkit.comm.traffic import Traffic

__all__ = [
    "Comm",
    "Done",
    "Group",
    "Handle",
    "SoloComm",
    "Staged",
    "Stages",
    "Subset",
    "Together",
    "Traffic",
    "part_sizes",
]
