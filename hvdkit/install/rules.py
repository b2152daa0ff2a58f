"""How the Horovod 0.28.1 sources are adapted to what is installed.

Each rule is one fact: the versions it applies to, why, and what it changes in the sources, in
the build's environment or in the list of needed packages. The sources are known by hash, so
a text that a rule does not find means that the rule is wrong, and that is an error. Imports
packaging and the standard library.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from hvdkit.errors import HvdkitError

HOROVOD_VERSION = "0.28.1"
HOROVOD_SHA256 = "92a43f5a94c43907a56805bad15f19700c62ffc83b7ca483f9e104e229f67ef0"
RECORD_FILE = "built_against.json"


@dataclass(frozen=True)
class Edit:
    """Replace `old`, which stands exactly once in `file`, by `new`."""

    file: str
    old: str
    new: str


@dataclass(frozen=True)
class Rule:
    """One adaptation.

    `when` maps a component (torch, tensorflow, python, cmake, cuda, unused-cuda) to the
    versions the rule is for; all must match, and an empty mapping always applies. Values of
    `environment` may name the places given to `environment_of` in braces. A rule that only
    gets the tools going, and leaves no trace in the wheel, is not `lasting`.
    """

    name: str
    why: str
    when: Mapping[str, str] = field(default_factory=dict)
    edits: tuple[Edit, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    requires: tuple[str, ...] = ()
    lasting: bool = True

    def applies(self, versions: Mapping[str, str]) -> bool:
        return all(
            component in versions
            and SpecifierSet(wanted).contains(Version(versions[component]), prereleases=True)
            for component, wanted in self.when.items()
        )

    def condition(self) -> str:
        """`when` as a reader would say it."""
        return ", ".join(f"{name} {wanted}" for name, wanted in self.when.items()) or "always"


def torch_standard(number: str) -> tuple[Edit, ...]:
    """The C++ standard of the torch extension, and of the Gloo that is linked into it.

    The sources set it in two places. Both must move: a Gloo compiled as C++14 defines its
    static constants once more than C++17 objects do, and the linker refuses the two together.
    """
    line = "    set(CMAKE_CXX_STANDARD {})\nendif()\n\n# PyTorch SOURCES"
    return (
        Edit(
            "CMakeLists.txt",
            "project(horovod CXX)\n\nset(CMAKE_CXX_STANDARD 14)\n",
            f"project(horovod CXX)\n\nset(CMAKE_CXX_STANDARD {number})\n",
        ),
        Edit("horovod/torch/CMakeLists.txt", line.format("14"), line.format(number)),
    )


RULES: tuple[Rule, ...] = (
    Rule(
        "record",
        "what Horovod was built against travels in the wheel, so that `hvdkit doctor` can "
        "tell when it no longer matches",
        edits=(
            Edit(
                "setup.cfg",
                "[egg_info]\n",
                f"[options.package_data]\nhorovod = {RECORD_FILE}\n\n[egg_info]\n",
            ),
        ),
    ),
    Rule(
        "no-debug-information",
        "debug information makes up nine tenths of the wheel and costs build time; the "
        "optimisation level stays -O3",
        edits=(
            Edit(
                "setup.py",
                "== \"1\" else 'RelWithDebInfo'",
                "== \"1\" else 'Release'",
            ),
        ),
    ),
    Rule(
        "torch-c++17",
        "the headers of torch 2.1 and later are C++17; the sources ask for C++14",
        when={"torch": ">=2.1,<2.14"},
        edits=torch_standard("17"),
    ),
    Rule(
        "torch-c++20",
        "the headers of torch 2.14 and later use std::strong_ordering, which is C++20",
        when={"torch": ">=2.14"},
        edits=torch_standard("20"),
    ),
    Rule(
        "tensorflow-without-xla-ops",
        "TensorFlow 2.19 moved the XLA headers and 2.21 lacks some in its wheel; only "
        "HOROVOD_ENABLE_XLA_OPS is lost",
        when={"tensorflow": ">=2.19"},
        edits=(
            Edit(
                "horovod/tensorflow/CMakeLists.txt",
                "list(APPEND TF_SOURCES "
                '"${PROJECT_SOURCE_DIR}/horovod/tensorflow/xla_mpi_ops.cc")\n',
                "",
            ),
        ),
    ),
    Rule(
        "cmake-4",
        "the Gloo inside Horovod asks for a CMake policy version that CMake 4 dropped",
        when={"cmake": ">=4"},
        environment={"CMAKE_POLICY_VERSION_MINIMUM": "3.5"},
        lasting=False,
    ),
    Rule(
        "python-3.12",
        "Horovod's CMake files and `horovodrun` import distutils, which Python 3.12 dropped "
        "and setuptools provides",
        when={"python": ">=3.12"},
        requires=("setuptools",),
    ),
    Rule(
        "nccl",
        "GPU tensors are reduced by NCCL; NVIDIA's wheel has only libnccl.so.2, so a folder "
        "with a libnccl.so link stands in, and Horovod would link statically by default",
        when={"cuda": ">=11"},
        environment={
            "HOROVOD_GPU_OPERATIONS": "NCCL",
            "HOROVOD_NCCL_INCLUDE": "{nccl_include}",
            "HOROVOD_NCCL_LIB": "{nccl_lib}",
            "HOROVOD_NCCL_LINK": "SHARED",
            "HOROVOD_BUILD_CUDA_CC_LIST": "{cuda_arch}",
            "HOROVOD_CUDA_HOME": "{cuda_home}",
            "CUDA_HOME": "{cuda_home}",
        },
    ),
    Rule(
        "cpu-operations-only",
        "a CUDA build of torch turns Horovod's GPU code on wherever torch finds a CUDA folder; "
        "this build does without",
        when={"unused-cuda": ">=0"},
        edits=(
            Edit(
                "cmake/Modules/FindPytorch.cmake",
                "print(True if ((torch.version.cuda is not None) and (CUDA_HOME is not None)) "
                "else False)",
                "print(False)",
            ),
        ),
    ),
)


def select(versions: Mapping[str, str]) -> tuple[Rule, ...]:
    """The rules that apply to these component versions, in order."""
    return tuple(rule for rule in RULES if rule.applies(versions))


def apply(rules: tuple[Rule, ...], sources: Path) -> None:
    """Edit the unpacked sources.

    Raises HvdkitError, naming the rule, where a text is not there exactly once.
    """
    for rule in rules:
        for edit in rule.edits:
            path = sources / edit.file
            text = path.read_text(encoding="utf-8") if path.is_file() else ""
            count = text.count(edit.old)
            if count != 1:
                raise HvdkitError(
                    f"Rule {rule.name!r} ({rule.condition()}) does not fit these Horovod "
                    f"sources: its text stands {count} times in {edit.file}, not once:\n"
                    f"    {edit.old.strip()}\n"
                    f"hvdkit adapts Horovod {HOROVOD_VERSION} from its unchanged source "
                    "archive; other sources need rules of their own."
                )
            path.write_text(text.replace(edit.old, edit.new), encoding="utf-8")


def environment_of(rules: tuple[Rule, ...], places: Mapping[str, str]) -> dict[str, str]:
    """The variables that the rules add; `places` fills the names in braces."""
    return {
        name: value.format_map(places) for rule in rules for name, value in rule.environment.items()
    }
