"""A wrong config is refused in one message that says what is wrong and what is near it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hvdkit.config import build, check
from hvdkit.errors import HvdkitError
from hvdkit.explain import explain
from tests.compose import CONF, composed

RECIPE = CONF.parent / "recipes/vision.py"


def complaint(*overrides: str) -> str:
    """What is said about a command line's overrides."""
    with pytest.raises((HydraException, OmegaConfBaseException, HvdkitError)) as caught:
        check(composed(*overrides))
    error = caught.value
    return str(error) if isinstance(error, HvdkitError) else explain(error, "vision")


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("model.widths=[]", ["model.widths=[]", "one stage at least"]),
        ("model.blocks=[1]", ["model.blocks=[1]", "one number each for every stage"]),
        ("model.norm_groups=7", ["model.norm_groups=7 does not divide the width 16"]),
    ],
)
def test_values_that_do_not_go_together_are_refused(override, says):
    said = complaint("model=resnet", override)
    assert all(words in said for words in says), said


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("optimizer.learning_rate=1", ["unknown key optimizer.learning_rate", "--cfg job"]),
        ("optimizer.momentun=1", ["optimizer.momentun", "did you mean optimizer.momentum?"]),
        ("train.num_steps=5", ["train.num_steps", "did you mean trainer.num_steps?"]),
        ("batch_size=5", ["unknown key batch_size", "did you mean data.batch_size?"]),
        ("+optimizer.decay=1", ["unknown key optimizer.decay", "optimizer takes:", "lr"]),
        ("+model.hiden=[3]", ["unknown key model.hiden", "did you mean hidden?"]),
        (
            "optimizer=adm",
            ["optimizer=adm is not known", "did you mean adam?", "adagrad, adam, adamw, lamb"],
        ),
        ("model=zzz", ["model=zzz", "model is one of", "mlp", "resnet"]),
        ("compression=fp8", ["did you mean fp16?", "none"]),
        ("experiment=digits_resnt", ["did you mean digits_resnet?"]),
        ("optimizer.lr=-1", ["optimizer.lr=-1 must be above 0"]),
        ("optimizer.lr=fast", ["optimizer.lr='fast' is not a number"]),
        ("optimizer.lr=nan", ["optimizer.lr=nan must be above 0"]),
        ("optimizer.momentum=1.0", ["below 1"]),
        ("trainer.precision=fp8", ["trainer.precision='fp8'", "fp32, fp64, bf16, fp16"]),
        ("trainer.resume=maybe", ["trainer.resume='maybe' is not true or false"]),
        ("trainer.num_steps=1.5", ["trainer.num_steps=1.5 is not a whole number or null"]),
        ("trainer.num_steps=0", ["trainer.num_steps=0 must be at least 1"]),
        ("trainer.seed=null", ["trainer.seed=None is not a whole number"]),
        ("model.hidden=8", ["model.hidden=8 is not a list, each item a whole number"]),
        ("model.hidden=[8,0]", ["model.hidden=[8, 0] must be above 0"]),
        ("data=arrays", ["data.source.path has no value", "data.source.path=..."]),
        ("data.source.test_fraction=1.0", ["data.source.test_fraction=1.0 must be"]),
        ("comm.chunk_mb=0", ["comm.chunk_mb=0 must be above 0"]),
        ("comm.autotune_compressions=[fp16]", ["add comm.autotune=true", "compression=fp16"]),
        (
            "comm={autotune:true,autotune_compressions:[int9]}",
            ["no compression int9", "did you mean int8?"],
        ),
        ("comm.cycle_time_ms=0", ["comm.cycle_time_ms=0 must be above 0"]),
        ("schedule.scale_lr=cubic", ["schedule.scale_lr='cubic'", "none, linear, sqrt"]),
        ("framework.threads=0", ["framework.threads=0 must be at least 1"]),
        ("optimizer.lr=[1", ["optimizer.lr=[1 cannot be read"]),
        ("~optimizer", ["optimizer=NAME"]),
    ],
)
def test_a_mistake_is_explained(override: str, says: list[str]) -> None:
    message = complaint(override)
    for words in says:
        assert words in message
    assert "HYDRA_FULL_ERROR" not in message


@pytest.mark.parametrize("compression", ["fp16", "bf16", "int8", "topk", "powersgd"])
def test_a_strategy_says_which_compressions_it_cannot_do_with(compression: str) -> None:
    said = complaint("strategy=adasum", f"compression={compression}")
    assert "strategy=adasum compares whole gradients" in said
    if compression == "powersgd":
        said = complaint("strategy=hierarchical", f"compression={compression}")
        assert "strategy=hierarchical shares each bucket out" in said
    else:
        check(composed("strategy=hierarchical", f"compression={compression}"))


def test_both_batch_sizes_are_one_too_many() -> None:
    message = complaint("data.batch_size=8", "data.batch_size_per_worker=4")
    assert "data.batch_size=8 and data.batch_size_per_worker=4 cannot both be given" in message
    assert "null" in message


def test_both_lengths_are_one_too_many() -> None:
    assert "cannot both be given" in complaint("trainer.num_steps=8", "trainer.num_epochs=4")


@pytest.mark.parametrize(
    ("override", "given", "left_out"),
    [
        ("trainer.num_steps=8", "trainer.num_steps", "trainer.num_epochs"),
        ("data.batch_size_per_worker=8", "data.batch_size_per_worker", "data.batch_size"),
    ],
)
def test_a_default_steps_back_for_the_other_way_to_say_it(
    override: Any, given: Any, left_out: Any
) -> None:
    config = composed(override)
    check(config)
    assert OmegaConf.select(config, given) == 8
    assert OmegaConf.select(config, left_out) is None


def test_build_raises_what_the_constructor_raised() -> None:
    with pytest.raises(HvdkitError, match="lr"):
        build(OmegaConf.create({"_target_": "hvdkit.optimizers.SGD", "lr": -1}))


@pytest.mark.parametrize("target", ["hvdkit.optimizers.SDG", "nowhere.SGD"])
def test_a_target_that_is_not_there_is_named(target: str) -> None:
    with pytest.raises(HvdkitError, match=target):
        build(OmegaConf.create({"_target_": target}))


# ---- the program itself ------------------------------------------------------------------------


def recipe(*arguments: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, RECIPE, *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, **variables},
        timeout=60,
    )


def assert_one_message(done: subprocess.CompletedProcess[str], says: str) -> None:
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["optimizer.lrr=1"], "did you mean optimizer.lr?"),
        (["optimizer=sgdd"], "did you mean sgd?"),
        (["optimizer.lr=-1"], "optimizer.lr=-1 must be above 0"),
    ],
)
def test_the_program_ends_in_one_message(tmp_path: Path, arguments: list[str], says: str) -> None:
    assert_one_message(recipe(*arguments, folder=tmp_path), says)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_sweep_inside_a_job_is_refused(tmp_path: Path) -> None:
    inside = {"HOROVOD_RANK": "0", "HOROVOD_SIZE": "1"}
    inside |= {"HOROVOD_LOCAL_RANK": "0", "HOROVOD_LOCAL_SIZE": "1"}
    done = recipe("-m", "trainer.seed=1,2", folder=tmp_path, **inside)
    assert_one_message(done, "start it without horovodrun")


def test_the_config_is_printed_without_being_run(tmp_path: Path) -> None:
    done = recipe("--cfg", "job", "optimizer=adam", "trainer.seed=7", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    printed = OmegaConf.create(done.stdout)
    assert printed == composed("optimizer=adam", "trainer.seed=7")
    assert not (tmp_path / "runs").exists()


def test_help_lists_the_choices(tmp_path: Path) -> None:
    done = recipe("--help", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    for words in (
        "optimizer: adagrad, adam, adamw, lamb",
        "framework: tensorflow, torch",
        "compression: bf16, fp16, int8, none, powersgd, topk",
    ):
        assert words in done.stdout


def test_a_run_leaves_what_it_was_made_of(tmp_path: Path) -> None:
    done = recipe("debug=short", "model.hidden=[8]", f"hydra.run.dir={tmp_path}", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["status"], summary["steps"], summary["world_size"]) == ("completed", 3, 1)
    written = OmegaConf.load(tmp_path / ".hydra/config.yaml")
    assert written == composed("debug=short", "model.hidden=[8]")
    assert "test accuracy" in done.stdout
    assert str(tmp_path) in done.stdout
