"""Imports go one way, and each framework stays in its own rooms.

Read from the source with `ast`: nothing is imported, so a module that cannot be imported here
(another framework's) is held to the same rules.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted(
    path
    for folder in ("hvdkit", "recipes", "hydra_plugins")
    for path in (ROOT / folder).rglob("*.py")
    if "conf" not in path.relative_to(ROOT).parts
)

# A module may import from its own room and from the layers below it, never from a neighbour.
LAYERS = (
    {"recipes", "hydra_plugins"},
    {"sweep"},
    {"config"},
    {"options", "trainer"},
    {"callbacks", "checkpoint", "data", "metrics", "tasks"},
    {"adapters"},
    {"explain", "launch", "optimizers", "strategies"},
    {"gradients", "run_folder"},
    {"comm"},
    {"schema", "tensors"},
    {"errors", "version"},
)
DEPTH = {room: depth for depth, layer in enumerate(LAYERS) for room in layer}
# Beside the training stack: what each of these may import, and nobody imports them.
ASIDE = {
    "cli": {"install", "bench", "report", "launch", "errors", "version"},
    "install": {"launch", "errors", "version"},
    "bench": {
        *("adapters", "callbacks", "comm", "errors", "gradients", "launch"),
        "strategies",
        "tensors",
    },
    "models": {"errors"},
    "report": {"errors", "version"},
}
FRAMEWORKS = ("torch", "tensorflow", "keras")


def room(module: str) -> str:
    """The folder or file below hvdkit that a dotted name belongs to."""
    parts = module.split(".")
    if parts[0] in ("recipes", "hydra_plugins"):
        return parts[0]
    # `hvdkit` itself holds the version, and `python -m hvdkit` is the command.
    name = parts[1] if len(parts) > 1 else "version"
    return {"__init__": "version", "__version__": "version", "__main__": "cli"}.get(name, name)


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def running(node: ast.AST) -> Iterator[ast.AST]:
    """Every node that can run: what stands under `if TYPE_CHECKING` is for the type checker."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        yield child
        yield from running(child)


@functools.cache
def imports(path: Path) -> frozenset[str]:
    """Every module that `path` imports, at its top or inside a function."""
    found: set[str] = set()
    for node in running(tree(path)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            assert node.module is not None
            whole = node.module == "hvdkit"
            found.update(f"hvdkit.{a.name}" for a in node.names) if whole else found.add(
                node.module
            )
    return frozenset(found)


def allowed(importer: str, imported: str) -> bool:
    if importer == imported:
        return True
    if importer in ASIDE:
        return imported in ASIDE[importer]
    return imported in DEPTH and DEPTH[importer] < DEPTH[imported]


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_imports_go_one_way(path: Path) -> None:
    importer = room(dotted(path))
    assert importer in DEPTH or importer in ASIDE, f"say in {__file__} where {importer} belongs"
    for name in imports(path):
        if name.split(".")[0] == "hvdkit":
            assert allowed(importer, room(name)), f"{dotted(path)} imports {name}"


def frameworks_of(path: Path) -> set[str]:
    """Which frameworks' packages a module may import."""
    place = path.relative_to(ROOT / "hvdkit").parts if "hvdkit" in path.parts else ()
    if place[:2] == ("adapters", "torch") or path.name.startswith("torch_"):
        return {"torch"}
    if place[:2] == ("adapters", "tensorflow"):
        return {"tensorflow", "keras"}
    return {"tensorflow", "keras"} if path.name.startswith("keras_") else set()


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_a_framework_is_imported_only_in_its_own_rooms(path: Path) -> None:
    used = {name.split(".")[0] for name in imports(path)} & set(FRAMEWORKS)
    assert used <= frameworks_of(path)


def test_each_horovod_module_is_imported_in_one_file() -> None:
    found = {
        (name, path.relative_to(ROOT / "hvdkit").as_posix())
        for path in MODULES
        for name in imports(path)
        if name.split(".")[0] == "horovod"
    }
    # What is built is also tried out, in a process of its own, before it is called installed.
    found.discard(("horovod", "install/allreduce.py"))
    assert found == {
        ("horovod.torch", "adapters/torch/comm.py"),
        ("horovod.tensorflow", "adapters/tensorflow/comm.py"),
    }


def test_both_adapters_have_the_same_files() -> None:
    torch, tensorflow = (
        {path.name for path in (ROOT / "hvdkit/adapters" / name).glob("*.py")}
        for name in ("torch", "tensorflow")
    )
    # Canonical names and layouts are torch's, so only the other side has to translate. A graph
    # has no memory of its own to lay out.
    assert tensorflow - torch <= {"layout.py"}
    assert torch - tensorflow <= {"buffers.py"}


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_no_branch_on_the_framework_outside_the_adapters(path: Path) -> None:
    if room(dotted(path)) in ("adapters", "install"):
        return
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Compare):
            words = {
                part.value
                for side in (node.left, *node.comparators)
                for part in ast.walk(side)
                if isinstance(part, ast.Constant)
            }
            assert not words & set(FRAMEWORKS), f"{dotted(path)}: {ast.unparse(node)}"


MODELS = sorted((ROOT / "hvdkit/models").rglob("torch_*.py"))


def test_each_model_has_a_twin() -> None:
    names = {
        kind: {
            path.relative_to(ROOT).as_posix().replace(f"/{kind}_", "/")
            for path in (ROOT / "hvdkit/models").rglob(f"{kind}_*.py")
        }
        for kind in ("torch", "keras")
    }
    assert names["torch"] == names["keras"] != set()


def signatures(path: Path) -> dict[str, list[tuple[str, str]]]:
    """Public functions and classes with their parameters; Keras's own `name` is left out."""
    found = {}
    for node in tree(path).body:
        if isinstance(node, ast.ClassDef):
            made = [f for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"]
            found[node.name] = parameters(made[0]) if made else []
        elif isinstance(node, ast.FunctionDef):
            found[node.name] = parameters(node)
    return {name: given for name, given in found.items() if not name.startswith("_")}


def parameters(function: ast.FunctionDef) -> list[tuple[str, str]]:
    """(name, default) of each parameter; annotations are each framework's own."""
    given = function.args
    defaults = [ast.unparse(default) if default else "required" for default in given.kw_defaults]
    named = zip((argument.arg for argument in given.kwonlyargs), defaults, strict=True)
    positional = [(argument.arg, "positional") for argument in given.args]
    return [pair for pair in [*positional, *named] if pair[0] not in ("self", "name")]


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_twins_take_the_same_arguments(path: Path) -> None:
    twin = path.with_name(path.name.replace("torch_", "keras_"))
    assert signatures(path) == signatures(twin)


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_a_module_says_what_it_holds_and_can_be_read_in_one_sitting(path: Path) -> None:
    text = path.read_text()
    assert ast.get_docstring(tree(path)), f"{path} begins with no docstring"
    assert len(text.splitlines()) <= (60 if path.parent.name == "recipes" else 450)
