"""Big text files, a block of whole lines at a time, with the numbers of the lines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from hvdkit.data.bad_records import BadRecords
from hvdkit.errors import HvdkitError

_BLOCK = 2**20  # bytes, few enough for what is made of them to stay in cache


def existing_file(path: str, key: str, *, names: Sequence[str]) -> Path:
    """The file that the config's `key` names, or the first of `names` in the folder it names.

    Raises `HvdkitError` unless it is there and holds something.
    """
    file = Path(path).expanduser()
    if file.is_dir():
        found = [file / name for name in names if (file / name).is_file()]
        if not found:
            kinds = f"none of {', '.join(names)}" if len(names) > 1 else f"no {names[0]}"
            raise HvdkitError(f"{key}={path} holds {kinds}")
        file = found[0]
    if not file.is_file():
        raise HvdkitError(f"{key}={path}: there is no such file")
    if file.stat().st_size == 0:
        raise HvdkitError(f"{file} is empty")
    return file


def blocks(file: Path, *, size: int = _BLOCK) -> Iterator[tuple[int, bytes]]:
    """Whole lines of a file, about `size` bytes at a time, and the number (from 1) of the first.

    Each ends with a newline, the file's last line too.
    """
    number = 1
    with file.open("rb") as stream:
        while block := stream.read(size):
            block += stream.readline()
            if not block.endswith(b"\n"):
                block += b"\n"
            yield number, block
            number += block.count(b"\n")


def good_lines(
    block: bytes,
    problem: Callable[[bytes], str | None],
    bad_records: BadRecords,
    *,
    file: Path,
    number: int,
) -> bytes:
    """The lines of a block in which `problem` finds none; the others are reported.

    `number` is that of the block's first line.
    """
    kept = []
    for i, line in enumerate(block.split(b"\n")[:-1], start=number):
        found = _not_text(line) or problem(line)
        if found:
            bad_records.report(f"{file}:{i}", found)
        else:
            kept.append(line + b"\n")
    return b"".join(kept)


def _not_text(line: bytes) -> str | None:
    try:
        line.decode()
    except UnicodeDecodeError as error:
        return f"byte {error.start + 1} of the line is not UTF-8"
    return None


def shown(field: bytes) -> str:
    """A field as an error message has it: quoted, and not for ever."""
    text = field.decode(errors="replace")
    return repr(text if len(text) <= 20 else f"{text[:20]}...")
