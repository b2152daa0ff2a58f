"""`hvdkit report`: runs and sweeps in one HTML file, or in the terminal.

Imports no framework: it reads what lies in the folders. NumPy, Jinja2, Plotly and rich are
imported when a report is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from hvdkit.errors import HvdkitError


def run(paths: Sequence[Path], *, output: Path, as_text: bool) -> int:
    """Print the report of `paths`, or write it to `output`. Raises `HvdkitError`."""
    from hvdkit.report.finding import find

    if as_text:
        from hvdkit.report.terminal import show

        show(find(paths))
        return 0
    if output.is_dir():
        raise HvdkitError(f"{output} is a folder: name a file with -o, as in -o report.html")
    if not output.parent.is_dir():
        raise HvdkitError(f"there is no folder {output.parent} to write {output.name} in")
    from hvdkit.report.page import render

    found = find(paths)
    page = render(found)
    partial = output.with_name(f".{output.name}.partial")
    try:
        partial.write_text(page, encoding="utf-8", errors="replace")
        partial.replace(output)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise HvdkitError(f"{output} could not be written: {error.strerror}") from error
    count = len(found.runs)
    size = output.stat().st_size / 1e6
    print(f"{output}: {count} run{'' if count == 1 else 's'}, {size:.1f} MB")
    return 0
