"""Tokenizers: every byte is kept, special tokens are no text, and BPE is learned once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hvdkit.comm import SoloComm
from hvdkit.comm.threads import run_ranks
from hvdkit.data import tokenizers
from hvdkit.data.tokenizers import SPECIAL_TOKENS, BytePairs, Bytes, digest, learn, make_tokenizer

TEXTS = ["the cat sat on the mat\n" * 20, "ein Kätzchen saß auf der Matte — 猫 🐈\n" * 20]
ODD = ["", " ", "\n\n\t x", "Ä", "🐈‍⬛", "<end><mask>[MASK]", "\x00\r\n", "the cat" * 3]


@pytest.fixture(scope="module")
def pairs() -> BytePairs:
    return BytePairs(learn(TEXTS, 300))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HVDKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tokenizers"


def spelled(tokenizer: BytePairs) -> dict[int, bytes]:
    """What each token stands for, by the library's own decoder of its alphabet."""
    from tokenizers import decoders

    decoder, words = decoders.ByteLevel(), tokenizer._model.get_vocab()
    whole = {number: decoder.decode([word]).encode() for word, number in words.items()}
    return {number: text for number, text in whole.items() if b"\xef\xbf\xbd" not in text}


def test_a_byte_is_a_token() -> None:
    tokenizer = Bytes()
    for text in ODD:
        assert tokenizer.encode(text).tolist() == list(text.encode())
    assert (tokenizer.vocabulary, tokenizer.texts) == (261, 256)


def test_the_special_tokens_are_five_numbers_above_the_texts(pairs: BytePairs) -> None:
    for tokenizer in (Bytes(), pairs):
        made = [getattr(tokenizer, name) for name in ("end", "pad", "first", "between", "mask")]
        assert made == list(range(tokenizer.texts, tokenizer.vocabulary))
        assert len(made) == SPECIAL_TOKENS
        assert not tokenizer.byte_lengths[tokenizer.texts :].any()
        for text in ODD:
            assert (tokenizer.encode(text) < tokenizer.texts).all()


def test_pairs_stand_for_all_bytes_of_the_text(pairs: BytePairs) -> None:
    for text in [*TEXTS, *ODD]:
        tokens = pairs.encode(text)
        assert pairs.byte_lengths[tokens].sum() == len(text.encode())
    assert len(pairs.encode(TEXTS[0])) < len(TEXTS[0]) / 3
    for number, spelling in spelled(pairs).items():
        assert pairs.byte_lengths[number] == len(spelling)


def test_pairs_give_the_text_back(pairs: BytePairs) -> None:
    from tokenizers import decoders

    names = {number: word for word, number in pairs._model.get_vocab().items()}
    for text in [*TEXTS, *ODD]:
        words = [names[number] for number in pairs.encode(text).tolist()]
        assert decoders.ByteLevel().decode(words) == text


def test_a_text_longer_than_a_piece_keeps_every_byte(
    pairs: BytePairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = pairs.encode(TEXTS[1])
    monkeypatch.setattr(tokenizers, "_PIECE", 50)  # some 1.4 lines
    np.testing.assert_array_equal(pairs.encode(TEXTS[1]), whole)
    unbroken = "猫" * 130
    assert pairs.byte_lengths[pairs.encode(unbroken)].sum() == 3 * 130


def test_tokens_are_stored_in_two_bytes_as_long_as_that_is_enough() -> None:
    tokenizer = Bytes()
    assert tokenizer.dtype == tokenizer.encode("a").dtype == np.uint16
    tokenizer.texts = 2**16 - SPECIAL_TOKENS
    assert tokenizer.dtype == np.uint16
    tokenizer.texts += 1
    assert tokenizer.dtype == np.int32


def test_learning_stops_at_the_vocabulary_or_when_no_pair_is_left(cache: Path) -> None:
    made = make_tokenizer("bpe", TEXTS, vocabulary=290, comm=SoloComm())
    assert made.vocabulary == 290
    few = make_tokenizer("bpe", ["ab"], vocabulary=290, comm=SoloComm())
    assert 261 < few.vocabulary < 270


def test_rank_0_learns_and_all_ranks_have_it(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learned: list[int] = []

    def counted(texts: Any, size: int) -> str:
        learned.append(size)
        return learn(texts, size)

    monkeypatch.setattr(tokenizers, "learn", counted)

    def body(comm: Any) -> list[int]:
        # Another rank's own texts play no part: it is sent rank 0's.
        texts = TEXTS if comm.rank == 0 else ["zzzz"]
        return make_tokenizer("bpe", texts, vocabulary=300, comm=comm).encode(TEXTS[0]).tolist()

    first, second = run_ranks(2, body)
    assert first == second
    assert learned == [295]
    assert run_ranks(2, body)[1] == first
    assert learned == [295]  # found in the cache
    (kept,) = cache.iterdir()
    assert kept.name == f"{digest(TEXTS, 'byte-level BPE', 295)}.json"


@pytest.mark.parametrize("damage", ["", "{}", '{"model": 3'])
def test_a_damaged_file_in_the_cache_is_replaced(cache: Path, damage: str) -> None:
    made = make_tokenizer("bpe", TEXTS, vocabulary=280, comm=SoloComm())
    (kept,) = cache.iterdir()
    kept.write_text(damage)
    again = make_tokenizer("bpe", TEXTS, vocabulary=280, comm=SoloComm())
    np.testing.assert_array_equal(again.encode(TEXTS[1]), made.encode(TEXTS[1]))
    BytePairs(kept.read_text())
    assert len(list(cache.iterdir())) == 1


def test_a_cache_that_cannot_be_written_is_done_without(cache: Path) -> None:
    cache.parent.write_text("a file where the folder should be")
    made = make_tokenizer("bpe", TEXTS, vocabulary=280, comm=SoloComm())
    assert made.vocabulary == 280


def test_a_digest_depends_on_texts_their_borders_and_settings() -> None:
    names = [digest(["ab", "c"], 1), digest(["a", "bc"], 1), digest(["ab", "c"], 2)]
    assert len(set(names)) == 3
    assert digest(iter(["ab", "c"]), 1) == names[0]
