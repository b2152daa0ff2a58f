"""Each schema describes what it says: the constructor's arguments, and the YAML's keys."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from collections.abc import Iterator
from typing import Any, cast

import pytest
from omegaconf import OmegaConf

from hvdkit.adapters.base import Adapter
from hvdkit.config import check
from hvdkit.options import SCHEMAS
from tests.compose import composed, overrides

TARGETS = [name for name in SCHEMAS if "." in name]
# Arguments that a program gives when it builds the object, because no file can.
SUPPLIED = {
    "hvdkit.models.recsys.": {"users", "items", "dense", "tables"},
    "hvdkit.models.nlp.": {"vocabulary", "context", "classes"},
    "hvdkit.models.": {"input_shape", "classes"},
    "hvdkit.data.": {"comm"},
    "hvdkit.adapters.": set(inspect.signature(Adapter.__init__).parameters) - {"self"},
    "hvdkit.strategies.": {"compression"},
}
RESNETS = tuple(f"hvdkit.models.vision.{kind}_resnet.ResNet" for kind in ("torch", "keras"))
# What suits the default run or makes a preset, and is no default of the rule itself.
TUNED = {
    *((f"hvdkit.models.recsys.{kind}_dlrm.DLRM", "sparse") for kind in ("torch", "keras")),
    *((name, key) for name in RESNETS for key in ("block", "stem", "norm_groups")),
    ("hvdkit.optimizers.SGD", "weight_decay"),
    ("hvdkit.optimizers.LARS", "weight_decay"),
    ("hvdkit.optimizers.Cosine", "warmup_steps"),
    ("hvdkit.optimizers.Linear", "warmup_steps"),
    ("hvdkit.optimizers.Polynomial", "warmup_steps"),
    ("hvdkit.optimizers.Step", "warmup_steps"),
}


def located(target: str) -> Any:
    module, _, name = target.rpartition(".")
    return getattr(importlib.import_module(module), name)


def arguments(target: str) -> dict[str, Any]:
    """What a file may say to the constructor, with its defaults."""
    supplied = next((names for start, names in SUPPLIED.items() if target.startswith(start)), set())
    return {
        name: parameter.default
        for name, parameter in inspect.signature(located(target)).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and name not in supplied
    }


def fields(schema: type) -> set[str]:
    return {field.name for field in dataclasses.fields(schema) if field.init}


@pytest.mark.parametrize("target", TARGETS)
def test_a_schema_has_the_constructors_arguments(target: str) -> None:
    assert fields(SCHEMAS[target]) == set(arguments(target))


@pytest.mark.parametrize("target", TARGETS)
def test_where_both_have_a_default_it_is_the_same(target: str) -> None:
    given = arguments(target)
    for field in dataclasses.fields(SCHEMAS[target]):
        if field.default not in (dataclasses.MISSING, None):
            assert given[field.name] == field.default


def nodes(node: dict[str, Any], where: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every part of a config that has a schema, by the schema's name."""
    name = node.get("_target_", where)
    if name in SCHEMAS:
        yield name, {key: value for key, value in node.items() if key != "_target_"}
    for key, child in node.items():
        if isinstance(child, dict):
            yield from nodes(child, f"{where}.{key}".lstrip("."))


@pytest.fixture(scope="module")
def described() -> list[tuple[str, dict[str, Any]]]:
    """The described parts of all that can be chosen."""
    return described_by(overrides())


def described_by(choices: list[tuple[str, ...]]) -> list[tuple[str, dict[str, Any]]]:
    return [
        found
        for words in choices
        for found in nodes(
            cast("dict[str, Any]", OmegaConf.to_container(composed(*words), resolve=True))
        )
    ]


def test_the_files_give_exactly_the_schemas_keys(described: Any) -> None:
    for name, node in described:
        assert set(node) == fields(SCHEMAS[name]), name


def test_every_schema_stands_behind_a_file(described: Any) -> None:
    assert {name for name, _ in described} == set(SCHEMAS)


def test_a_files_value_is_the_constructors_default_where_it_has_one() -> None:
    # An experiment is there to differ.
    usual = [words for words in overrides() if not words[0].startswith("experiment=")]
    for name, node in described_by(usual):
        for key, default in arguments(name).items() if "." in name else ():
            if default is not inspect.Parameter.empty and (name, key) not in TUNED:
                assert node[key] == default, f"{name}.{key}"


@pytest.mark.parametrize("words", overrides(), ids=" ".join)
def test_every_choice_composes_and_passes_the_check(words: tuple[str, ...]) -> None:
    check(composed(*words))
