"""A test that needs a system program is never skipped in silence."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parent.parent


def test_an_absent_program_fails_the_test_with_the_remedy(pytester: pytest.Pytester) -> None:
    pytester.makeconftest((ROOT / "tests/conftest.py").read_text())
    pytester.makeini("[pytest]\nmarkers = system")
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.system("sh", "no-such-program")
        def test_needs_both(tmp_path):
            raise AssertionError("must not be reached")

        @pytest.mark.system("sh")
        def test_needs_what_is_there():
            pass
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(
        [
            "no-such-program is not installed: as root, make test-packages; "
            "or leave these tests out with -m 'not system'"
        ]
    )
    result.stdout.no_fnmatch_line("*must not be reached*")


def test_what_the_marks_need_is_what_gets_installed() -> None:
    """The list is plain package names, sorted, so that apt-get can take it as it is."""
    names = (ROOT / "tests/packages.txt").read_text().split()
    assert names == sorted(set(names)) != []
    target = subprocess.run(
        ["make", "--dry-run", "test-packages"], cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    assert target.returncode == 0, target.stderr
    assert "apt-get install" in target.stdout
    assert "tests/packages.txt" in target.stdout
