"""Language models: each and its twin are one network, and see what they should and no more."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hvdkit.data.masking import MaskedTokens
from hvdkit.data.sources import ArraySource, Source
from hvdkit.data.text import TokenBlocks, packed
from hvdkit.data.tokenizers import Bytes
from hvdkit.models.initial import transformer_normal
from hvdkit.optimizers import SGD
from hvdkit.tasks import text_task
from tests.models.twins import (
    FRAMEWORKS,
    Problem,
    Twin,
    check_losses,
    check_names_and_shapes,
    check_start,
    check_state_moves,
    model_class,
    pair,
)

BYTES, CONTEXT, CLASSES = Bytes(), 14, 3
SIZES = {"layers": 2, "width": 8, "heads": 2, "dropout": 0.0}
TEXT = packed(["def f(x):\n    return x\n" * 12], BYTES)


def blocks() -> Source:
    return TokenBlocks(TEXT, context=CONTEXT, byte_lengths=BYTES.byte_lengths)


def masked() -> Source:
    return MaskedTokens(TEXT, context=CONTEXT, tokenizer=BYTES)


def labelled() -> Source:
    """Texts of different lengths, some with a second segment."""
    random = np.random.default_rng(0)
    lengths = random.integers(2, CONTEXT + 1, 20)
    valid = np.arange(CONTEXT) < lengths[:, None]
    token = np.where(valid, random.integers(0, 256, valid.shape), BYTES.pad)
    segment = valid & (np.arange(CONTEXT) > lengths[:, None] // 2)
    return ArraySource(
        token=token.astype(np.uint16),
        segment=segment.astype(np.uint8),
        valid=valid,
        label=random.integers(0, CLASSES, 20),
    )


NETWORKS: dict[str, tuple[str, str, Any]] = {
    "gpt": ("gpt", "next_token", blocks),
    "bert, masked tokens": ("bert", "masked_tokens", masked),
    "bert, classes": ("bert", "classes", labelled),
}


def problem(name: str) -> Problem:
    file, objective, source = NETWORKS[name]

    def make(framework: str) -> tuple[Any, Any]:
        model = model_class(framework, "nlp", file, file.upper())(
            vocabulary=BYTES.vocabulary,
            context=CONTEXT,
            classes=CLASSES if objective == "classes" else 0,
            **SIZES,
        )
        return model, text_task(objective, model)

    return Problem(make=make, source=source())


@pytest.fixture(scope="module", params=NETWORKS)
def twins(request: pytest.FixtureRequest) -> dict[str, Twin]:
    return pair(problem(request.param), optimizer=SGD(lr=0.5, momentum=0.9))


def test_twins_are_one_network(twins: dict[str, Twin]) -> None:
    check_names_and_shapes(twins)
    check_start(twins)
    check_losses(twins)
    check_state_moves(twins)


def outputs(made: Twin, batch: dict[str, np.ndarray]) -> np.ndarray:
    """The model's outputs in evaluation."""
    adapter: Any = made.adapter
    inputs = adapter.task.inputs(adapter._tensors(batch))
    if adapter.framework == "tensorflow":
        result: np.ndarray = adapter.model(*inputs, training=False).numpy()
        return result
    adapter.model.eval()
    found: np.ndarray = adapter.model(*inputs).detach().numpy()
    adapter.model.train()
    return found


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_model_sees_what_it_should_and_no_more(twins: dict[str, Twin], framework: str) -> None:
    made = twins[framework]
    task: Any = made.adapter.task
    source: Any = made.problem.source
    batch = task.prepare(source.take(np.arange(1, 3)), valid=True)
    before = outputs(made, batch)
    if "bytes" in batch:  # next_token: a later token changes nothing earlier
        changed = {**batch, "token": batch["token"].copy()}
        changed["token"][:, 9] = ord("#")
        after = outputs(made, changed)
        np.testing.assert_allclose(after[:, :9], before[:, :9], rtol=1e-12)
        assert (np.abs(after[:, 9:] - before[:, 9:]).max((0, 2)) > 1e-9).all()
        return
    # Both ways, but never into the padding.
    last = batch["valid"].sum(1) - 1
    rows = np.arange(2)
    for place, same in ((np.minimum(last + 1, CONTEXT - 1), True), (last, False)):
        changed = {**batch, "token": batch["token"].copy()}
        padded = ~batch["valid"][rows, place] if same else np.ones(2, bool)
        changed["token"][rows[padded], place[padded]] = 7
        after = outputs(made, changed)
        moved = np.abs(after - before).reshape(2, -1).max(1)
        assert (moved < 1e-12).all() if same else (moved > 1e-9).all()


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_dropout_acts_in_training_alone(framework: str) -> None:
    model = model_class(framework, "nlp", "gpt", "GPT")(
        vocabulary=11, context=6, **{**SIZES, "dropout": 0.5}
    )
    tokens = np.array([[1, 2, 3, 4, 5, 6]])
    if framework == "torch":
        import torch

        def run(training: bool) -> np.ndarray:
            model.train(training)
            result: np.ndarray = model(torch.from_numpy(tokens)).detach().numpy()
            return result
    else:

        def run(training: bool) -> np.ndarray:
            result: np.ndarray = model(tokens, training=training).numpy()
            return result

    assert not np.array_equal(run(True), run(True))
    np.testing.assert_array_equal(run(False), run(False))


def test_first_weights_are_small_and_residual_ones_smaller() -> None:
    plain = transformer_normal(0, "blocks.0.mlp.enter.weight", (400, 100))
    ends = transformer_normal(0, "blocks.0.mlp.out.weight", (100, 400), depth=8)
    assert plain.std() == pytest.approx(0.02, rel=0.02)
    assert ends.std() == pytest.approx(0.02 / 4, rel=0.02)
    assert transformer_normal(0, "blocks.0.mlp.out.weight", (100, 400)).std() > 0.019
    assert not transformer_normal(0, "blocks.0.mlp.out.bias", (100,)).any()
    assert (transformer_normal(0, "norm.weight", (100,)) == 1).all()
