"""The rules, applied to lines of the real Horovod 0.28.1 sources kept in `excerpts/`."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from hvdkit.errors import HvdkitError
from hvdkit.install.rules import RULES, Edit, Rule, apply, environment_of, select

EXCERPTS = Path(__file__).parent / "excerpts"
EDITING = [rule for rule in RULES if rule.edits]


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    return Path(shutil.copytree(EXCERPTS, tmp_path / "horovod-0.28.1"))


@pytest.mark.parametrize("rule", EDITING, ids=lambda rule: rule.name)
def test_a_rule_changes_the_real_text_and_nothing_else(rule: Rule, sources: Path) -> None:
    before = {edit.file: (sources / edit.file).read_text() for edit in rule.edits}
    apply((rule,), sources)
    for edit in rule.edits:
        after = (sources / edit.file).read_text()
        assert after == before[edit.file].replace(edit.old, edit.new)
        assert after != before[edit.file]
    untouched = {path for path in sources.rglob("*") if path.is_file()} - {
        sources / edit.file for edit in rule.edits
    }
    for path in untouched:
        assert path.read_text() == (EXCERPTS / path.relative_to(sources)).read_text()


@pytest.mark.parametrize("rule", EDITING, ids=lambda rule: rule.name)
def test_a_rule_applied_twice_is_an_error(rule: Rule, sources: Path) -> None:
    apply((rule,), sources)
    if any(edit.old in (sources / edit.file).read_text() for edit in rule.edits):
        assert rule.name == "record", "only an insertion may leave the text that it looks for"
        return
    with pytest.raises(HvdkitError, match=re.escape(rule.name)):
        apply((rule,), sources)


@pytest.mark.parametrize(
    ("file", "old"),
    [
        ("CMakeLists.txt", "set(CMAKE_CXX_STANDARD 11)"),
        ("no/such/file.txt", "anything"),
        ("horovod/tensorflow/CMakeLists.txt", "list(APPEND TF_SOURCES "),
    ],
    ids=["text absent", "file absent", "text there twice"],
)
def test_a_text_not_found_exactly_once_is_an_error(file: str, old: str, sources: Path) -> None:
    rule = Rule("wrong", "for the test", edits=(Edit(file, old, "new"),))
    with pytest.raises(HvdkitError) as raised:
        apply((rule,), sources)
    assert "'wrong'" in str(raised.value)
    assert file in str(raised.value)


def test_all_rules_of_a_setup_fit_together(sources: Path) -> None:
    versions = {"torch": "2.14.1+cu130", "tensorflow": "2.21.0", "unused-cuda": "13.0"}
    apply(select(versions), sources)
    torch = (sources / "horovod/torch/CMakeLists.txt").read_text()
    assert "set(CMAKE_CXX_STANDARD 20)" in torch
    assert "CUDA_HOME is not None" not in (sources / "cmake/Modules/FindPytorch.cmake").read_text()


@pytest.mark.parametrize(
    ("versions", "names"),
    [
        ({"torch": "2.0.1"}, set()),
        ({"torch": "2.1.0"}, {"torch-c++17"}),
        ({"torch": "2.13.0+cpu"}, {"torch-c++17"}),
        ({"torch": "2.14.0"}, {"torch-c++20"}),
        ({"torch": "2.15.0.dev20261101+cu130"}, {"torch-c++20"}),
        ({"tensorflow": "2.18.1"}, set()),
        ({"tensorflow": "2.21.0"}, {"tensorflow-without-xla-ops"}),
        ({"cmake": "3.31.2"}, set()),
        ({"cmake": "4.0.0"}, {"cmake-4"}),
        ({"python": "3.11.7"}, set()),
        ({"python": "3.12.0"}, {"python-3.12"}),
        ({"cuda": "13.0"}, {"nccl"}),
        ({"unused-cuda": "12.4"}, {"cpu-operations-only"}),
    ],
)
def test_which_versions_a_rule_is_for(versions: dict[str, str], names: set[str]) -> None:
    always = {rule.name for rule in RULES if not rule.when}
    assert {rule.name for rule in select(versions)} == names | always


def test_every_rule_says_why_and_does_something() -> None:
    assert len({rule.name for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert len(rule.why) > 20
        assert rule.edits or rule.environment or rule.requires


def test_places_fill_the_environment() -> None:
    places = {
        "nccl_include": "/i",
        "nccl_lib": "/l",
        "cuda_arch": "80,90",
        "cuda_home": "/usr/local/cuda",
    }
    added = environment_of(select({"cuda": "13.0", "cmake": "4.1"}), places)
    assert added["HOROVOD_NCCL_LIB"] == "/l"
    assert added["HOROVOD_BUILD_CUDA_CC_LIST"] == "80,90"
    assert added["CMAKE_POLICY_VERSION_MINIMUM"] == "3.5"
