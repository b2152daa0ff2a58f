"""Tasks on text: exact losses, counts and metrics, by hand."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import pytest

from hvdkit import metrics
from hvdkit.data import EvalData, TrainData
from hvdkit.data.labelled_text import labelled_text
from hvdkit.data.masking import MaskedTokens
from hvdkit.data.text import TokenBlocks, packed
from hvdkit.data.tokenizers import Bytes
from hvdkit.errors import HvdkitError
from hvdkit.tasks import (
    LanguageModeling,
    MaskedLanguageModeling,
    TextClassification,
    text_task,
)
from hvdkit.tensors import NumpyOps

OPS, BYTES = NumpyOps(), Bytes()
# Half, a quarter, an eighth and an eighth.
LOGITS = np.log(np.array([4.0, 2.0, 1.0, 1.0]))
HALF, QUARTER, EIGHTH = (n * math.log(2) for n in (1, 2, 3))


def evaluated(task: Any, batches: list[tuple[Any, dict]]) -> dict[str, float]:
    """The metrics of (outputs, batch) pairs, added up as a run adds them."""
    sums = metrics.add(task.metrics(OPS, outputs, batch) for outputs, batch in batches)
    found: dict[str, float] = task.summarize(sums)
    return found


def tokens(rows: list[list[int]], weight: list[list[float]], length: list[int]) -> dict:
    return {
        "token": np.array(rows, np.uint16),
        "weight": np.array(weight, np.float32),
        "bytes": np.array(length),
    }


def spread(*shape: int) -> np.ndarray:
    return np.broadcast_to(LOGITS, (*shape, 4)).copy()


def test_language_modelling_by_hand() -> None:
    task = LanguageModeling()
    records = tokens([[3, 0, 1, 2], [3, 0, 0, 0]], [[1, 1, 1], [1, 0, 0]], [5, 3])
    batch = task.prepare(records, valid=True)
    assert batch["token"].tolist() == [[3, 0, 1], [3, 0, 0]]
    assert batch["label"].tolist() == [[0, 1, 2], [0, 0, 0]]
    assert task.count(batch) == 4
    losses = task.losses(OPS, spread(2, 3), batch)
    np.testing.assert_allclose(losses, [[HALF, QUARTER, EIGHTH], [HALF, 0, 0]])
    found = evaluated(task, [(spread(2, 3), batch)])
    mean = (HALF + QUARTER + EIGHTH + HALF) / 4  # 7 bits in 4 tokens
    assert found == pytest.approx(
        {
            "loss": mean,
            "perplexity": 2 ** (7 / 4),
            "accuracy": 2 / 4,
            "bits_per_byte": 7 / 8,
        }
    )
    assert mean == pytest.approx(7 / 4 * math.log(2))


def test_the_mean_is_over_tokens_however_batches_are_cut() -> None:
    task, random = LanguageModeling(), np.random.default_rng(0)
    text = bytes(random.integers(97, 123, 150).tolist()).decode()
    source = TokenBlocks(packed([text], BYTES), context=7, byte_lengths=BYTES.byte_lengths)

    def outputs(batch: dict) -> np.ndarray:
        """Logits that depend on the token alone, whatever batch it is in."""
        return np.sin(batch["token"][..., None] * 0.7 + np.arange(BYTES.vocabulary))

    results = []
    for size, ranks in ((1000, 1), (1, 1), (4, 1), (4, 3), (5, 40)):
        data = EvalData(source, task, batch_size=size)
        batches = [batch for rank in range(ranks) for batch in data.batches((rank, ranks))]
        results.append(evaluated(task, [(outputs(batch), batch) for batch in batches]))
    for result in results[1:]:
        assert result == pytest.approx(results[0], rel=1e-6)
    whole = np.frombuffer(text.encode(), np.uint8).astype(int).tolist()
    stream = np.array([BYTES.end, *whole, BYTES.end])
    logits = np.sin(stream[:-1, None] * 0.7 + np.arange(BYTES.vocabulary))
    expected = OPS.cross_entropy(logits, stream[1:])
    assert results[0]["loss"] == pytest.approx(expected.mean(), rel=1e-6)
    assert results[0]["bits_per_byte"] == pytest.approx(expected.sum() / math.log(2) / 150)


def test_equal_training_records_count_alike_and_a_stand_in_counts_nothing() -> None:
    task = LanguageModeling()
    source = TokenBlocks(packed(["x" * 100], BYTES), context=7, byte_lengths=BYTES.byte_lengths)
    data = TrainData(source, task, batch_size=3, seed=0, prefetch=0)
    assert data.usual_count() == 21
    batch = task.prepare(source.take(np.array([0, 1])), valid=False)
    assert task.count(batch) == 0
    assert not task.losses(OPS, np.zeros((2, 7, BYTES.vocabulary)), batch).any()
    assert not batch["bytes"].any()


def test_a_loss_beyond_all_numbers_is_an_infinite_perplexity_and_no_error() -> None:
    sums = {"loss": np.array(1e6), "count": np.array(10.0), "accuracy": np.array(0.0)}
    assert MaskedLanguageModeling().summarize(sums)["perplexity"] == math.inf
    empty = LanguageModeling().summarize({**sums, "bytes": np.array(0.0)})
    assert math.isnan(empty["bits_per_byte"])


def masked(label: list[list[int]], weight: list[list[float]]) -> dict:
    rows = len(label)
    return {
        "token": np.zeros((rows, 6), np.uint16),
        "segment": np.zeros((rows, 6), np.uint8),
        "valid": np.ones((rows, 6), bool),
        "position": np.tile([1, 4], (rows, 1)),
        "label": np.array(label, np.uint16),
        "weight": np.array(weight, np.float32),
    }


def test_masked_language_modelling_by_hand() -> None:
    task = MaskedLanguageModeling()
    batch = task.prepare(masked([[0, 1], [2, 0]], [[1, 1], [1, 0]]), valid=True)
    assert task.count(batch) == 3
    assert [x.shape for x in task.inputs(batch)] == [(2, 6), (2, 6), (2, 6), (2, 2)]
    np.testing.assert_allclose(
        task.losses(OPS, spread(2, 2), batch), [[HALF, QUARTER], [EIGHTH, 0]]
    )
    found = evaluated(task, [(spread(2, 2), batch)])
    expected = {"loss": 2 * math.log(2), "perplexity": 4, "accuracy": 1 / 3}
    assert found == pytest.approx(expected)
    assert task.count(task.prepare(masked([[0, 1]], [[1, 1]]), valid=False)) == 0


def test_masked_records_come_through_the_loader() -> None:
    task = MaskedLanguageModeling()
    source = MaskedTokens(packed(["abcdefgh" * 40], BYTES), context=22, tokenizer=BYTES)
    data = TrainData(source, task, batch_size=4, seed=0, prefetch=0)
    steps = [microbatches[0] for microbatches in data.batches(start=0, stop=8, replica=(0, 1))]
    alone = next(data.batches(start=5, stop=6, replica=(1, 2)))[0]
    for name, column in alone.items():
        np.testing.assert_array_equal(column, steps[5][name][2:])
    assert data.usual_count() == 4 * 3


def test_classification_by_hand() -> None:
    records: dict[str, np.ndarray] = {
        "token": np.zeros((3, 5), np.uint16),
        "segment": np.zeros((3, 5), np.uint8),
        "valid": np.ones((3, 5), bool),
        "label": np.array([0, 1, 3]),
    }
    task = TextClassification(label_smoothing=0.1)
    batch = task.prepare(records, valid=True)
    assert task.count(batch) == 3
    found = evaluated(task, [(spread(3), batch)])
    assert found == pytest.approx({"loss": 2 * math.log(2), "accuracy": 1 / 3})
    # The uniform part costs (1 + 2 + 3 + 3) / 4 bits.
    uniform = 9 / 4 * math.log(2)
    np.testing.assert_allclose(
        task.losses(OPS, spread(3), batch),
        [0.9 * bits + 0.1 * uniform for bits in (HALF, QUARTER, EIGHTH)],
    )


def test_labelled_text_fits_the_task(tmp_path: Any) -> None:
    file = tmp_path / "a.csv"
    file.write_text("text,label\na,0\nbc,1\n")
    data = labelled_text(
        path=str(file),
        evaluation_path=str(file),
        evaluation_fraction=0.1,
        text_field="text",
        pair_field=None,
        label_field="label",
        labels=None,
        context=6,
        tokenizer="bytes",
        vocabulary=300,
        on_bad_record="error",
    )
    task = text_task(data.objective, None, label_smoothing=0.2)
    assert isinstance(task, TextClassification)
    assert task.label_smoothing == 0.2
    (batch,) = EvalData(data.evaluation, task).batches((0, 1))
    assert [x.shape for x in task.inputs(batch)] == [(2, 6)] * 3
    assert batch["valid"].sum(1).tolist() == [3, 4]


class Decoder:
    objectives: ClassVar = ("next_token",)


def test_a_task_is_the_datas_and_the_model_must_be_able() -> None:
    assert isinstance(text_task("next_token", Decoder()), LanguageModeling)
    assert isinstance(text_task("masked_tokens", object()), MaskedLanguageModeling)
    with pytest.raises(HvdkitError, match="Decoder learns next_token, and the data is for classe"):
        text_task("classes", Decoder())
