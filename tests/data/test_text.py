"""Text files: what is read, what is refused, and how it is packed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hvdkit.comm.threads import run_ranks
from hvdkit.data import TextDataset, text_files
from hvdkit.data.sources import Source, take
from hvdkit.data.text import TokenBlocks, packed, share
from hvdkit.data.tokenizers import Bytes
from hvdkit.errors import HvdkitError

END = 256


def read(path: Path | None, **changed: Any) -> TextDataset:
    options: dict[str, Any] = {
        "path": None if path is None else str(path),
        "evaluation_path": None,
        "glob": None,
        "evaluation_fraction": 0.3,
        "context": 8,
        "tokenizer": "bytes",
        "vocabulary": 300,
        "on_bad_record": "error",
    }
    return text_files(**{**options, **changed})


def written(folder: Path, **files: str | bytes) -> Path:
    """Files by their names; two underscores stand for a dot, three for a slash."""
    for key, content in files.items():
        file = folder / key.replace("___", "/").replace("__", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def stream(source: Source) -> list[int]:
    """The tokens of all records, each once."""
    records = take(source, range(len(source)))
    first = records["token"][0, :1].tolist()
    return first + records["token"][:, 1:][records["weight"] == 1].tolist()


def documents(source: Source) -> list[str]:
    parts = bytes(token if token != END else 0 for token in stream(source)).split(b"\0")
    assert parts[0] == parts[-1] == b""
    return [part.decode() for part in parts[1:-1]]


# ---- blocks ------------------------------------------------------------------------------------


def test_each_token_is_predicted_once_from_the_one_before_it() -> None:
    tokens = packed(["abcd", "", "efg"], Bytes())
    assert tokens.tolist() == [END, *b"abcd", END, END, *b"efg", END]
    blocks = TokenBlocks(tokens, context=4, byte_lengths=Bytes().byte_lengths)
    assert len(blocks) == 3
    records = take(blocks, range(3))
    assert records["token"].tolist() == [
        [END, *b"abcd"],
        [*b"d", END, END, *b"ef"],
        [*b"fg", END, END, END],
    ]
    assert records["weight"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0]]
    assert records["bytes"].tolist() == [4, 2, 1]  # 7 letters, and no end token
    assert records["token"].dtype == np.uint16
    for name, column in blocks[2].items():
        np.testing.assert_array_equal(column, records[name][2])


@pytest.mark.parametrize("length", range(2, 12))
def test_any_length_is_covered_exactly(length: int) -> None:
    tokens = np.arange(length, dtype=np.uint16)
    blocks = TokenBlocks(tokens, context=4, byte_lengths=Bytes().byte_lengths)
    assert stream(blocks) == tokens.tolist()
    weights = take(blocks, range(len(blocks)))["weight"]
    assert weights.sum() == length - 1
    assert weights.any(1).all()  # no record of padding alone


# ---- files -------------------------------------------------------------------------------------


def test_the_standard_library_is_there() -> None:
    data = read(None, evaluation_fraction=0.05)
    assert data.vocabulary == 261
    sizes = [sum(take(part, range(len(part)))["bytes"]) for part in (data.train, data.evaluation)]
    assert sum(sizes) > 5e6
    assert 0.02 < sizes[1] / sum(sizes) < 0.2


def test_files_are_documents_in_the_order_of_their_names(tmp_path: Path) -> None:
    folder = written(tmp_path, b__txt="two\r\n", a__txt="one", c___d__txt="three", empty__txt="")
    written(tmp_path, __hidden="no", __git___config="no")
    data = read(folder, evaluation_path=str(folder / "b.txt"))
    assert documents(data.train) == ["one", "two\r\n", "three"]
    assert documents(data.evaluation) == ["two\r\n"]
    only = read(folder, evaluation_path=str(folder / "b.txt"), glob="*/*.txt")
    assert documents(only.train) == ["three"]


def test_a_file_stays_on_its_side_when_others_come(tmp_path: Path) -> None:
    names = [f"{i}__txt" for i in range(40)]
    folder = written(tmp_path, **{name: f"{i}" for i, name in enumerate(names)})
    first = set(documents(read(folder).evaluation))
    assert first == {f"{i}" for i in range(40) if share(f"{i}.txt") < 0.3}
    assert 4 < len(first) < 20
    written(tmp_path, **{f"new{i}__txt": f"new{i}" for i in range(10)})
    assert set(documents(read(folder).evaluation)) & {f"{i}" for i in range(40)} == first


@pytest.mark.parametrize("fraction", [1e-9, 1 - 1e-9])
def test_no_side_is_empty(tmp_path: Path, fraction: float) -> None:
    folder = written(tmp_path, a__txt="a", b__txt="b", c__txt="c")
    data = read(folder, evaluation_fraction=fraction)
    sizes = [len(documents(part)) for part in (data.train, data.evaluation)]
    assert sizes == ([2, 1] if fraction < 0.5 else [1, 2])


def test_a_single_file_is_cut_after_a_line(tmp_path: Path) -> None:
    folder = written(tmp_path, one__txt="".join(f"line {i}\n" for i in range(10)))
    data = read(folder / "one.txt")
    (train,), (evaluation,) = documents(data.train), documents(data.evaluation)
    assert train.endswith("line 6\n")
    assert evaluation == "line 7\nline 8\nline 9\n"


def test_bytes_a_token_are_counted_for_pairs_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HVDKIT_CACHE", str(tmp_path / "cache"))
    text = "naïve café — 猫\n" * 30
    folder = written(tmp_path / "text", a__txt=text, b__txt=text[:100])
    data = read(folder, evaluation_path=str(folder / "b.txt"), tokenizer="bpe", vocabulary=270)
    assert data.vocabulary == 270
    counted = take(data.evaluation, range(len(data.evaluation)))
    assert counted["bytes"].sum() == len(text[:100].encode())
    assert counted["weight"].sum() < len(text[:100].encode()) / 1.5


@pytest.mark.parametrize("tail", [b"\xff", b"\xc3", b"\xed\xa0\x80"])
def test_bytes_that_are_not_utf8_are_named_by_file_and_line(tmp_path: Path, tail: bytes) -> None:
    folder = written(tmp_path, a__txt=b"one\ntwo " + tail, b__txt="good", c__txt="good too")
    with pytest.raises(HvdkitError, match=rf"a\.txt:2: the byte 0x{tail[0]:02x} .*\(offset 8\)"):
        read(folder)
    data = read(folder, on_bad_record="skip")
    assert sorted(documents(data.train) + documents(data.evaluation)) == ["good", "good too"]
    assert data.bad_records is not None
    assert data.bad_records.count == 1


def test_what_is_not_there_is_named_with_its_key(tmp_path: Path) -> None:
    good = written(tmp_path / "good", a__txt="abc")
    with pytest.raises(HvdkitError, match=r"data\.source\.path=.*absent: there is no such"):
        read(tmp_path / "absent")
    with pytest.raises(HvdkitError, match=r"data\.source\.evaluation_path=.*there is no such"):
        read(good, evaluation_path=str(tmp_path / "absent"))
    with pytest.raises(HvdkitError, match=r"no text in the 0 file\(s\) there .*glob=\*\.md"):
        read(good, glob="*.md")
    with pytest.raises(HvdkitError, match=r"no text in the 1 file\(s\) there"):
        read(written(tmp_path / "none", a__txt="") / "a.txt")
    with pytest.raises(HvdkitError, match="nothing to evaluate on"):
        read(written(tmp_path / "one", a__txt="x") / "a.txt")


def test_ranks_that_read_other_texts_are_told(tmp_path: Path) -> None:
    folders = [
        written(tmp_path / f"{rank}", a__txt="one", b__txt=f"two {rank}", c__txt="x")
        for rank in range(2)
    ]
    with pytest.raises(HvdkitError, match=r"not read the same text: .*text is .* on rank 1"):
        run_ranks(2, lambda comm: read(folders[comm.rank], comm=comm))
    same = run_ranks(2, lambda comm: documents(read(folders[0], comm=comm).train))
    assert same[0] == same[1]
