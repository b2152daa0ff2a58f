"""Diagnosis of failed builds, on lines that real builds printed."""

from __future__ import annotations

import pytest

from hvdkit.install.progress import percent_of
from hvdkit.install.symptoms import SYMPTOMS, diagnose, telling_lines


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        (
            "c10/core/SymInt.h:52:8: error: 'strong_ordering' is not a member of 'std'",
            "C++20",
        ),
        (
            "c10/util/C++17.h:24:2: error: #error You need C++17 to compile PyTorch",
            "C++17",
        ),
        (
            "CMake Error at third_party/gloo/CMakeLists.txt:1 (cmake_minimum_required):\n"
            "  Compatibility with CMake < 3.5 has been removed from CMake.",
            "CMake 4",
        ),
        ("c++: fatal error: Killed signal terminated program cc1plus", "memory"),
        ("ModuleNotFoundError: No module named 'distutils'", "distutils"),
        ("/usr/bin/python3: No module named pip", "no pip"),
        ("error: externally-managed-environment", "operating system"),
        ("Executable: none", "Open MPI 5"),
        ("nvcc fatal   : Unsupported gpu architecture 'compute_70'", "architectures"),
        ("ImportError: mpi_lib_v2.so: undefined symbol: _ZN5torch3jit", "does not match"),
        ("OSError: [Errno 28] No space left on device", "full"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE", "archive"),
    ],
)
def test_a_known_failure_is_recognised(line: str, cause: str) -> None:
    found = diagnose(f"some output\n{line}\nmore output")
    assert found is not None
    assert cause in found.cause
    assert found.remedy


def test_an_unknown_failure_is_not_explained_away() -> None:
    assert diagnose("error: expected ';' before 'return'") is None


def test_a_build_that_goes_well_shows_no_symptom() -> None:
    log = "\n".join(
        [
            "-- Could NOT find NVTX (missing: NVTX_INCLUDE_DIR)",
            "[ 45%] Building CXX object transport/tcp/error.cc.o",
            "[100%] Built target pytorch",
            "Successfully built horovod",
        ]
    )
    assert diagnose(log) is None
    assert len({symptom.pattern for symptom in SYMPTOMS}) == len(SYMPTOMS)


def test_the_compilers_error_is_shown_and_pips_epilogue_is_not() -> None:
    lines = [f"line {number}" for number in range(100)]
    lines[40] = "mpi_ops.cc:32:10: fatal error: highwayhash/sip_hash.h: No such file or directory"
    epilogue = [
        "Traceback (most recent call last):",
        "  File setup.py",
        "RuntimeError: CMake failed",
    ]
    shown = telling_lines("\n".join([*lines, *epilogue]))
    assert lines[39:42] == shown[1:4]
    assert shown[-1] == "line 99"
    assert len(shown) < 20


def test_a_traceback_alone_is_shown() -> None:
    log = "Traceback (most recent call last):\n  File x\nImportError: undefined symbol: f"
    assert telling_lines(log)[-1] == "ImportError: undefined symbol: f"


@pytest.mark.parametrize(
    ("line", "percent"),
    [
        ("[ 42%] Building CXX object a.cc.o", 42),
        ("  [  0%] Building", 0),
        ("  [100%] Built target pytorch", 100),
        ("gloo 42% [ 42%]", None),
        ("", None),
    ],
)
def test_progress_is_read_off_cmakes_lines(line: str, percent: int | None) -> None:
    assert percent_of(line) == percent
