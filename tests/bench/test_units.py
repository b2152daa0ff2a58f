"""What people write for bandwidths, latencies and sizes is read as they mean it, or refused."""

from __future__ import annotations

from argparse import ArgumentTypeError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvdkit.bench import units


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("25Gbit", 25e9 / 8),
        ("100 Mbit/s", 100e6 / 8),
        ("1Gbps", 1e9 / 8),
        ("12.5GB", 12.5e9),
        ("3GB/s", 3e9),
        (".5gbit", 0.5e9 / 8),
    ],
)
def test_bandwidths(text, value):
    assert units.bandwidth(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["25", "25Gbitt", "fast", "0Gbit", "-1Gbit", "25Gb", "", "1 GiB"])
def test_what_is_no_bandwidth_is_refused_with_an_example(text):
    with pytest.raises(ArgumentTypeError, match="25Gbit"):
        units.bandwidth(text)


@given(st.floats(1e-3, 1e6))
def test_latencies_of_all_units(number):
    values = {unit: units.latency(f"{number:.6f}{unit}") for unit in ("ns", "us", "ms", "s")}
    assert values["s"] == pytest.approx(number, rel=1e-3)
    assert values["ms"] * 1e3 == pytest.approx(values["us"] * 1e6) == values["ns"] * 1e9


@pytest.mark.parametrize("text", ["20", "20usec", "us", "-1us"])
def test_what_is_no_latency_is_refused(text):
    with pytest.raises(ArgumentTypeError, match="20us"):
        units.latency(text)


def test_sizes():
    assert [units.size(text) for text in ("4096", "64KiB", "16M", "1GB")] == [
        4096,
        65536,
        2**24,
        10**9,
    ]
    for text in ("0", "1TiBB", "x", "0.1"):
        with pytest.raises(ArgumentTypeError, match="64KiB"):
            units.size(text)


def test_worker_counts():
    assert units.worker_counts("512, 8,64,8") == (8, 64, 512)
    for text in ("", "8,x", "0", "-8"):
        with pytest.raises(ArgumentTypeError, match="8,64,512"):
            units.worker_counts(text)
