"""Masked tokens: how many, which, by what, and that all of it follows from the keys."""

from __future__ import annotations

import numpy as np
import pytest

from hvdkit.data.keys import position_keys
from hvdkit.data.masking import MaskedTokens
from hvdkit.data.sources import draw, take
from hvdkit.data.text import packed
from hvdkit.data.tokenizers import Bytes

BYTES, CONTEXT = Bytes(), 42


def source(text: str = "abcdefgh" * 400, *, context: int = CONTEXT) -> MaskedTokens:
    return MaskedTokens(packed([text], BYTES), context=context, tokenizer=BYTES)


def drawn(made: MaskedTokens, *, seed: int = 0) -> dict[str, np.ndarray]:
    every = np.arange(len(made))
    return draw(made, every, position_keys(seed, every))


def mended(records: dict[str, np.ndarray]) -> np.ndarray:
    """The tokens with the labels back in their places."""
    token = records["token"].copy()
    row, place = np.nonzero(records["weight"])
    token[row, records["position"][row, place]] = records["label"][row, place]
    return token


def test_a_record_is_text_between_special_tokens() -> None:
    made = source("abc" * 30, context=12)
    assert len(made) == 10  # 92 tokens with both ends, ten a record
    records = drawn(made)
    tokens = mended(records)
    assert (tokens[:, 0] == BYTES.first).all()
    whole = np.concatenate([row[1:-1] for row in tokens])
    expected = [BYTES.end, *b"abc" * 30, BYTES.end]
    assert whole[:92].tolist() == expected
    assert tokens[:-1, -1].tolist() == [BYTES.between] * 9
    assert tokens[-1].tolist() == [
        BYTES.first,
        *expected[90:],
        BYTES.between,
        *[BYTES.pad] * 8,
    ]
    assert records["valid"].sum(1).tolist() == [12] * 9 + [4]
    assert not records["segment"].any()


def test_a_whole_record_predicts_15_percent_of_its_text() -> None:
    records = drawn(source())
    assert records["position"].shape[1] == round(0.15 * (CONTEXT - 2)) == 6
    assert (records["weight"][1:-1] == 1).all()
    chosen = records["weight"] == 1
    assert (records["label"][chosen] < BYTES.texts).all()
    for row, keep in zip(records["position"], chosen, strict=True):
        assert len(set(row[keep].tolist())) == keep.sum()


def test_a_short_record_predicts_at_least_one_token_and_never_the_ends() -> None:
    made = source("a", context=CONTEXT)
    (weights,) = drawn(made)["weight"].tolist()
    assert weights == [1, 0, 0, 0, 0, 0]
    assert drawn(made)["position"][0, 0] == 2  # after the first token and the end token
    assert drawn(made)["label"][0, 0] == ord("a")


def test_eight_tenths_are_masked_one_replaced_one_kept() -> None:
    made = source("a" * 60_000)
    records = drawn(made)
    chosen = records["weight"] == 1
    shown = np.take_along_axis(records["token"], records["position"], 1)[chosen]
    total = len(shown)
    masked, kept = (shown == BYTES.mask).sum(), (shown == ord("a")).sum()
    replaced = total - masked - kept
    assert masked / total == pytest.approx(0.8, abs=0.02)
    assert kept / total == pytest.approx(0.1 + 0.1 / 256, abs=0.01)
    assert replaced / total == pytest.approx(0.1, abs=0.01)
    others = shown[(shown != BYTES.mask) & (shown != ord("a"))]
    assert others.max() < BYTES.texts
    assert len(set(others.tolist())) > 200


def test_positions_are_spread_evenly() -> None:
    records = drawn(source("a" * 60_000))
    counts = np.bincount(records["position"].reshape(-1), minlength=CONTEXT)[1:-1]
    assert counts.min() > 0.8 * counts.mean()
    assert counts.max() < 1.2 * counts.mean()


def test_nothing_but_the_chosen_places_changes() -> None:
    made = source()
    first, second = mended(drawn(made, seed=0)), mended(drawn(made, seed=1))
    np.testing.assert_array_equal(first, second)


def test_a_record_depends_on_its_key_alone() -> None:
    made, every = source(), np.arange(20)
    keys = position_keys(3, every)
    together = draw(made, every, keys)
    order = np.random.default_rng(0).permutation(20)
    apart = draw(made, every[order], keys[order])
    for name, column in apart.items():
        np.testing.assert_array_equal(column, together[name][order])
    other = draw(made, every, position_keys(4, every))
    assert (other["position"] != together["position"]).any(1).mean() > 0.9


def test_evaluation_masks_the_same_every_time() -> None:
    made = source()
    once, again = take(made, range(7)), take(made, [6])
    for name, column in again.items():
        np.testing.assert_array_equal(column[0], once[name][6])
        np.testing.assert_array_equal(made[6][name], once[name][6])
