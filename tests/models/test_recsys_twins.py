"""Recommender models: each and its twin compute the same, and so do rows and whole tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from hvdkit.data.interactions import leave_one_out
from hvdkit.data.sources import ArraySource, Source
from hvdkit.models.recsys.initial import click_through, factors, neural_factors
from hvdkit.optimizers import SGD
from hvdkit.tasks import ClickThrough, ImplicitFeedback
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
    twin,
)

USERS, ITEMS, TABLES, DENSE = 9, 30, (5, 11, 3), 4


def interactions() -> Source:
    random = np.random.default_rng(0)
    users = np.repeat(np.arange(USERS), 6)
    items = np.concatenate([random.permutation(ITEMS)[:6] for _ in range(USERS)])
    data = leave_one_out(users, items, np.arange(54) % 7, negatives=2, evaluation_negatives=12)
    return data.train


def clicks() -> Source:
    random = np.random.default_rng(0)
    return ArraySource(
        dense=random.normal(size=(40, DENSE)).astype(np.float32),
        categories=np.stack([random.integers(0, n, 40) for n in TABLES], 1),
        label=random.integers(0, 2, 40).astype(np.uint8),
    )


RANKING = (interactions, ImplicitFeedback, {"users": USERS, "items": ITEMS})
CLICKS = (clicks, ClickThrough, {"dense": DENSE, "tables": list(TABLES)})
MODELS: dict[str, tuple[str, str, dict[str, Any], tuple[Callable, type, dict[str, Any]]]] = {
    "mf": ("mf", "MF", {"dimension": 3}, RANKING),
    "neumf": ("neumf", "NeuMF", {"factors": 3, "dimension": 4, "hidden": [6, 2]}, RANKING),
    "dlrm": ("dlrm", "DLRM", {"bottom": [5, 3], "top": [7, 4]}, CLICKS),
}


def problem(name: str, *, sparse: bool = False) -> Problem:
    file, kind, options, (source, task, sizes) = MODELS[name]

    def make(framework: str) -> tuple[Any, Any]:
        model = model_class(framework, "recsys", file, kind)
        return model(**sizes, **options, sparse=sparse), task()

    return Problem(make=make, source=source())


@pytest.fixture(scope="module", params=MODELS)
def twins(request: pytest.FixtureRequest) -> dict[str, Twin]:
    return pair(problem(request.param), optimizer=SGD(lr=0.5))


def test_twins_are_one_network(twins: dict[str, Twin]) -> None:
    check_names_and_shapes(twins)
    check_start(twins)
    check_losses(twins)
    check_state_moves(twins)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_gradients_as_rows_train_like_whole_tables(framework: str, name: str) -> None:
    rows, tables = (
        twin(framework, problem(name, sparse=sparse), optimizer=SGD(lr=0.5, momentum=0.0))
        for sparse in (True, False)
    )
    marked = {table.spec.name for table in rows.adapter.strategy.tables}
    expected = {
        "mf": {"users.weight", "items.weight", "user_biases.weight", "item_biases.weight"},
        "neumf": {
            f"{kind}_{what}.weight" for kind in ("gmf", "mlp") for what in ("users", "items")
        },
        "dlrm": {f"tables.{i}.weight" for i in range(len(TABLES))},
    }
    assert marked == expected[name]
    assert tables.adapter.strategy.tables == ()
    assert rows.losses(start=0, stop=4) == pytest.approx(tables.losses(start=0, stop=4), rel=1e-12)
    trained = tables.adapter.read_trainable()
    for key, array in rows.adapter.read_trainable().items():
        np.testing.assert_allclose(array, trained[key], rtol=1e-12, atol=1e-14, err_msg=key)


def test_dlrm_multiplies_each_pair_of_vectors_once() -> None:
    torch = pytest.importorskip("torch")
    model = model_class("torch", "recsys", "dlrm", "DLRM")(
        dense=2, tables=[3, 4], bottom=[2], top=[1]
    )
    for table in model.tables:
        torch.nn.init.normal_(table.weight)
    seen = []
    model.top[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    dense, categories = torch.tensor([[1.0, 2.0]]), torch.tensor([[2, 1]])
    with torch.no_grad():
        model(dense, categories)
        x = torch.relu(model.bottom[0](dense))[0]
        a, b = (model.tables[i].weight.detach()[row] for i, row in enumerate((2, 1)))
    expected = [*x.tolist(), float(a @ x), float(b @ x), float(b @ a)]
    assert seen[0][0].tolist() == pytest.approx(expected, rel=1e-6)


def test_tables_start_as_the_papers_say() -> None:
    vectors = factors(0, "users.weight", (2000, 16))
    assert vectors.std() == pytest.approx(0.01, rel=0.02)
    assert not factors(0, "user_biases.weight", (5, 1)).any()
    assert not factors(0, "bias", (1,)).any()

    table = click_through(0, "tables.0.weight", (400, 16))
    assert abs(table).max() == pytest.approx(1 / 20, rel=0.01)
    assert table.std() == pytest.approx(1 / 20 / np.sqrt(3), rel=0.02)
    kernel = click_through(0, "top.0.weight", (100, 300))
    assert kernel.std() == pytest.approx(np.sqrt(2 / 400), rel=0.02)
    assert click_through(0, "top.0.bias", (2500,)).std() == pytest.approx(1 / 50, rel=0.05)

    layer = neural_factors(0, "hidden.0.weight", (100, 200))
    assert abs(layer).max() == pytest.approx(np.sqrt(6 / 300), rel=0.01)
    head = neural_factors(0, "head.weight", (1, 5000))
    assert abs(head).max() == pytest.approx(np.sqrt(3 / 5000), rel=0.01)
    assert not neural_factors(0, "hidden.0.bias", (7,)).any()
    assert neural_factors(0, "mlp_users.weight", (2000, 16)).std() == pytest.approx(0.01, rel=0.02)


def test_a_big_table_is_drawn_in_single_precision() -> None:
    for draw in (factors, neural_factors, click_through):
        assert draw(0, "tables.0.weight", (50, 4)).dtype == np.float32
