"""Text files, packed into blocks of tokens for a language model."""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from hvdkit.comm import Comm, SoloComm
from hvdkit.comm.agreement import require_equal
from hvdkit.data.bad_records import BadRecords, OnBadRecord
from hvdkit.data.masking import MaskedTokens
from hvdkit.data.sources import BatchSource, Dataset, Source
from hvdkit.data.tokenizers import Tokenizer, TokenizerKind, digest, make_tokenizer
from hvdkit.errors import HvdkitError

Objective = Literal["next_token", "masked_tokens", "classes"]
# Of the standard library's folder: what is installed beside it, and its own tests, which some
# systems leave out.
_NOT_LIBRARY = {"site-packages", "dist-packages", "test", "tests", "idle_test"}


@dataclass(frozen=True, kw_only=True)
class TextDataset(Dataset):
    """Records of at most `context` tokens below `vocabulary`, and what is to be learned of them.

    `classes` counts the labels, where that is the objective.
    """

    vocabulary: int
    context: int
    objective: Objective
    classes: int = 0


class TokenBlocks(BatchSource):
    """A stream of tokens, cut into records {"token": (context + 1,), "weight": (context,),
    "bytes": ()}: each token but the stream's first is the last of a pair once.

    "weight" is 0 for the padding of the last record, and "bytes" how many bytes of text the
    predicted tokens stand for.
    """

    def __init__(self, stream: np.ndarray, *, context: int, byte_lengths: np.ndarray):
        self._stream, self._context, self._byte_lengths = stream, context, byte_lengths

    def __len__(self) -> int:
        return -(-(len(self._stream) - 1) // self._context)

    def take(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        places = np.asarray(indices)[:, None] * self._context + np.arange(self._context + 1)
        last = len(self._stream) - 1
        tokens = self._stream[np.minimum(places, last)]
        inside = places[:, 1:] <= last
        lengths = self._byte_lengths[tokens[:, 1:]] * inside
        return {
            "token": tokens,
            "weight": inside.astype(np.float32),
            "bytes": lengths.sum(1),
        }


def text_files(
    *,
    path: str | None,
    evaluation_path: str | None,
    glob: str | None,
    evaluation_fraction: float,
    context: int,
    tokenizer: TokenizerKind,
    vocabulary: int,
    on_bad_record: OnBadRecord,
    comm: Comm | None = None,
) -> TextDataset:
    """UTF-8 text for predicting the next token.

    `path` is a file, or a folder whose files matching `glob` (null: all) are taken in the order
    of their names, each as one document; null is the Python standard library's own source
    (without its tests). `evaluation_path` is likewise what to evaluate on; if it is null,
    `evaluation_fraction` of the files of `path` are, chosen by the digests of their names, or
    that much of the end of a single file.

    Documents stand one after the other, an end token before the first and after each, and are
    packed into blocks of `context` predictions. Bits a byte count the bytes of text alone, and
    the cost of the end tokens as well.

    `vocabulary` is how many tokens BPE has (bytes have 261). Empty files of a folder are passed
    over. A file that is not UTF-8 is a bad record.
    """
    found = _read(
        path, evaluation_path, glob, evaluation_fraction, tokenizer, vocabulary, on_bad_record, comm
    )
    train, evaluation = (
        TokenBlocks(
            packed(texts, found.tokenizer),
            context=context,
            byte_lengths=found.tokenizer.byte_lengths,
        )
        for texts in (found.train, found.evaluation)
    )
    return _dataset(train, evaluation, found, context=context, objective="next_token")


def masked_text_files(
    *,
    path: str | None,
    evaluation_path: str | None,
    glob: str | None,
    evaluation_fraction: float,
    context: int,
    tokenizer: TokenizerKind,
    vocabulary: int,
    on_bad_record: OnBadRecord,
    comm: Comm | None = None,
) -> TextDataset:
    """UTF-8 text for predicting masked tokens (`hvdkit.data.masking`); see `text_files`."""
    found = _read(
        path, evaluation_path, glob, evaluation_fraction, tokenizer, vocabulary, on_bad_record, comm
    )
    train, evaluation = (
        MaskedTokens(packed(texts, found.tokenizer), context=context, tokenizer=found.tokenizer)
        for texts in (found.train, found.evaluation)
    )
    return _dataset(train, evaluation, found, context=context, objective="masked_tokens")


def packed(texts: Sequence[str], tokenizer: Tokenizer) -> np.ndarray:
    """All texts as one stream of tokens, an end token before the first and after each."""
    end = np.array([tokenizer.end], tokenizer.dtype)
    parts = [end]
    for text in texts:
        parts += [tokenizer.encode(text), end]
    return np.concatenate(parts)


# ---- reading -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Texts:
    train: list[str]
    evaluation: list[str]
    tokenizer: Tokenizer
    bad_records: BadRecords


def _dataset(
    train: Source, evaluation: Source, found: _Texts, *, context: int, objective: Objective
) -> TextDataset:
    return TextDataset(
        train=train,
        evaluation=evaluation,
        bad_records=found.bad_records,
        vocabulary=found.tokenizer.vocabulary,
        context=context,
        objective=objective,
    )


def _read(
    path: str | None,
    evaluation_path: str | None,
    glob: str | None,
    fraction: float,
    tokenizer: TokenizerKind,
    vocabulary: int,
    on_bad_record: OnBadRecord,
    comm: Comm | None,
) -> _Texts:
    comm, bad = comm or SoloComm(), BadRecords(on_bad_record)
    texts = _texts(path, glob, bad, "path")
    if evaluation_path is not None:
        train = list(texts.values())
        evaluation = list(_texts(evaluation_path, glob, bad, "evaluation_path").values())
    elif len(texts) == 1:
        train, evaluation = _cut(next(iter(texts.values())), fraction)
    else:
        chosen = _chosen(list(texts), fraction)
        train = [text for name, text in texts.items() if name not in chosen]
        evaluation = [text for name, text in texts.items() if name in chosen]
    agree(comm, train, evaluation)
    made = make_tokenizer(tokenizer, train, vocabulary=vocabulary, comm=comm)
    return _Texts(train, evaluation, made, bad)


def agree(comm: Comm, train: Sequence[str], evaluation: Sequence[str]) -> None:
    """Raise `HvdkitError` on every rank unless all have read the same texts."""
    if comm.size > 1:
        facts = {"training text": digest(train), "evaluation text": digest(evaluation)}
        require_equal(comm, facts, "ranks have not read the same text")


def _texts(path: str | None, glob: str | None, bad: BadRecords, key: str) -> dict[str, str]:
    """The text of each file, by its name within the folder, in the order of names."""
    if path is None:
        root = Path(sysconfig.get_path("stdlib"))
        names = sorted(
            name
            for file in root.rglob("*.py")
            if _NOT_LIBRARY.isdisjoint((name := file.relative_to(root)).parts)
        )
    else:
        root = Path(path).expanduser()
        if root.is_dir():
            inside = [file for file in root.rglob(glob or "*") if file.is_file()]
            names = sorted(file.relative_to(root) for file in inside)
            names = [name for name in names if not any(p.startswith(".") for p in name.parts)]
        elif root.is_file():
            root, names = root.parent, [Path(root.name)]
        else:
            raise HvdkitError(f"data.source.{key}={path}: there is no such file or folder")
    texts = {name.as_posix(): _text(root / name, bad) for name in names}
    found = {name: text for name, text in texts.items() if text}
    if not found:
        matching = f" matching data.source.glob={glob}" if glob and path else ""
        raise HvdkitError(
            f"data.source.{key}={path}: no text in the {len(names)} file(s) there{matching}"
        )
    return found


def _text(file: Path, bad: BadRecords) -> str | None:
    try:
        data = file.read_bytes()
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        problem = f"{not_utf8(data[error.start])} (offset {error.start}); a file is one record"
        bad.report(f"{file}:{line}", problem)
    except OSError as error:
        bad.report(str(file), f"cannot be read: {error.strerror}")
    return None


def not_utf8(byte: int) -> str:
    return f"the byte 0x{byte:02x} is not UTF-8 here"


def share(name: str) -> float:
    """A number in [0, 1) that depends on the name alone."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big") / 2**48


def _chosen(names: Sequence[str], fraction: float) -> set[str]:
    """The files to evaluate on: a file's side does not depend on the others, unless one side
    would have none."""
    ordered = sorted(names, key=share)
    low = [name for name in ordered if share(name) < fraction]
    return set(low[: len(names) - 1] or ordered[:1])


def _cut(text: str, fraction: float) -> tuple[list[str], list[str]]:
    """A single document's beginning and end, cut after a line if it has several."""
    place = min(max(round(len(text) * (1 - fraction)), 1), len(text) - 1)
    place = text.rfind("\n", 0, place) + 1 or place
    if not 0 < place < len(text):
        raise HvdkitError(
            "data.source.path has one character of text: there is nothing to evaluate on"
        )
    return [text[:place]], [text[place:]]
