"""The Kubernetes manifests: what the MPI operator takes, and what the image asks for."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

ROOT = Path(__file__).parents[2]
MANIFESTS = sorted((ROOT / "deploy/kubernetes").glob("*.yaml"))
SCHEMA = json.loads((Path(__file__).parent / "mpijob_schema.json").read_text())
every_manifest = pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)


def load(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())


def pods(job: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {kind: r["template"]["spec"] for kind, r in job["spec"]["mpiReplicaSpecs"].items()}


def recipe_arguments(job: dict[str, Any]) -> list[str]:
    return pods(job)["Launcher"]["containers"][0]["args"]


@every_manifest
def test_the_schema_takes_it(path: Path) -> None:
    Draft202012Validator.check_schema(SCHEMA)
    problems = [
        f"{e.json_path}: {e.message}" for e in Draft202012Validator(SCHEMA).iter_errors(load(path))
    ]
    assert problems == []


def test_the_schema_refuses_a_misspelt_field_anywhere() -> None:
    """Renaming any one field that has a fixed name must be seen."""
    job = load(ROOT / "deploy/kubernetes/gpu.yaml")
    seen = 0
    for place in places(job):
        if place[-2:-1] == ("limits",):
            continue  # names of resources are free
        broken = copy.deepcopy(job)
        node = broken
        for key in place[:-1]:
            node = node[key]
        node[f"{place[-1]}X"] = node.pop(place[-1])
        assert not Draft202012Validator(SCHEMA).is_valid(broken), place
        seen += 1
    assert seen > 80


def places(node: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every field."""
    items = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in items:
        if isinstance(node, dict):
            yield (*above, key)
        if isinstance(value, dict | list):
            yield from places(value, (*above, key))


@every_manifest
def test_mounts_have_volumes_and_the_run_folder_outlives_the_pods(path: Path) -> None:
    for pod in pods(load(path)).values():
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounts = {m["mountPath"]: m["name"] for m in pod["containers"][0]["volumeMounts"]}
        assert set(mounts.values()) == set(volumes)
        assert "persistentVolumeClaim" in volumes[mounts["/workspace/runs"]]


@every_manifest
def test_what_it_asks_of_the_image_is_what_the_image_has(path: Path) -> None:
    job = load(path)
    dockerfile = (ROOT / "Dockerfile").read_text()
    (port,) = re.findall(r"^EXPOSE (\d+)", dockerfile, re.MULTILINE)
    (uid,) = re.findall(r"^USER (\d+)", dockerfile, re.MULTILINE)
    (home,) = re.findall(r"HOME=(\S+)", dockerfile)
    assert job["spec"]["sshAuthMountPath"] == f"{home}/.ssh"
    worker = pods(job)["Worker"]["containers"][0]
    assert worker["args"] == ["sshd"]
    assert worker["ports"][0]["containerPort"] == int(port)
    for pod in pods(job).values():
        assert pod["securityContext"]["runAsUser"] == int(uid)


@every_manifest
def test_a_rank_has_its_gpu_or_its_core(path: Path) -> None:
    job = load(path)
    limits = pods(job)["Worker"]["containers"][0]["resources"]["limits"]
    slots = job["spec"]["slotsPerWorker"]
    if path.stem == "gpu":
        assert limits["nvidia.com/gpu"] == slots
    assert int(limits["cpu"]) >= slots


@every_manifest
def test_its_command_is_a_run_that_resumes(path: Path) -> None:
    program, verb, *arguments = recipe_arguments(load(path))
    assert (program, verb) == ("hvdkit", "launch")
    recipe = next(word for word in arguments if word.endswith(".py"))
    assert (ROOT / recipe).is_file()
    assert "trainer.resume=true" in arguments
    # The pod is killed when its grace ends; a job needs 10 s at most from signal to checkpoint.
    assert all(p["terminationGracePeriodSeconds"] >= 30 for p in pods(load(path)).values())
