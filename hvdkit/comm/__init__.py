"""Collectives: what the strategies speak, whatever carries them."""

from hvdkit.comm.base import Comm, Done, Group, Handle, part_sizes
from hvdkit.comm.solo import SoloComm

__all__ = ["Comm", "Done", "Group", "Handle", "SoloComm", "part_sizes"]
