"""Bandwidths, latencies and sizes as people write them. Imports the standard library only."""

from __future__ import annotations

import re
from argparse import ArgumentTypeError

_BITS = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0}
_BYTES = {"": 1, "b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_BYTES |= {"k": 2**10, "m": 2**20, "g": 2**30, "kb": 10**3, "mb": 10**6, "gb": 10**9}
_NUMBER = r"\s*([0-9]*\.?[0-9]+(?:e-?[0-9]+)?)\s*"


def bandwidth(text: str) -> float:
    """Bytes a second: `25Gbit`, `100Mbit/s` and `1Gbps` are bits, `3GB` and `3GB/s` bytes."""
    found = re.fullmatch(_NUMBER + r"([kmgt]?)(bit|bps|b)(?:/s)?\s*", text, re.IGNORECASE)
    if not found or float(found[1]) <= 0:
        raise ArgumentTypeError(
            f"{text!r} is not a bandwidth: give a number and a unit, as in 25Gbit, 100Mbit or 3GB"
        )
    # `Gb` is as often a slip for `GB` as it is short for `Gbit`: nobody is to guess.
    if found[3] == "b":
        raise ArgumentTypeError(f"{text!r} may be bits or bytes: write bit or B, as in 25Gbit, 3GB")
    scale = _BITS[found[2].lower()]
    return float(found[1]) * scale / (1 if found[3] == "B" else 8)


def latency(text: str) -> float:
    """Seconds: `20us`, `1.5ms`."""
    found = re.fullmatch(_NUMBER + r"(ns|us|µs|ms|s)\s*", text)
    if not found:
        raise ArgumentTypeError(
            f"{text!r} is not a latency: give a number and ns, us, ms or s, as in 20us"
        )
    return float(found[1]) * _SECONDS[found[2]]


def size(text: str) -> int:
    """Bytes: `4`, `64KiB`, `16M` (MiB), `1GB` (10^9)."""
    found = re.fullmatch(_NUMBER + r"([a-z]*)\s*", text, re.IGNORECASE)
    unit = found and _BYTES.get(found[2].lower())
    if not found or not unit or float(found[1]) * unit < 1:
        raise ArgumentTypeError(f"{text!r} is not a size: write it as in 4096, 64KiB or 16MiB")
    return round(float(found[1]) * unit)


def worker_counts(text: str) -> tuple[int, ...]:
    """`8,64,512`, ascending."""
    words = text.replace(",", " ").split()
    if not words or not all(word.isdecimal() and int(word) > 0 for word in words):
        raise ArgumentTypeError(f"{text!r} is not a list of worker counts, as in 8,64,512")
    return tuple(sorted(set(map(int, words))))


def in_words(nbytes: float) -> str:
    """`64 KiB`."""
    for unit in ("B", "KiB", "MiB"):
        if nbytes < 1024:
            return f"{nbytes:.4g} {unit}"
        nbytes /= 1024
    return f"{nbytes:.4g} GiB"
