"""What a user can get wrong ends in one message, soon, whatever the number of ranks.

Each mistake is made on a real command line under horovodrun. `error:` lines are counted over
the output of all ranks: exactly one may be there, and no traceback.
"""

from __future__ import annotations

import os
import sys
import time

import pytest

SECONDS = 5.0  # from the last rank's start to the end of the job
_STAMP = """#!/bin/sh
date +%s.%N > "$STAMPS/${OMPI_COMM_WORLD_RANK:-$HOROVOD_RANK}"
exec "$@"
"""
_HIDE_TENSORFLOW = """
import sys
from importlib.machinery import PathFinder

class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition(".")[0] not in ("tensorflow", "keras"):
            return PathFinder.find_spec(name, path, target)

# The launcher, which asks for TensorFlow itself, keeps it.
if not any("horovodrun" in word for word in sys.orig_argv):
    sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
"""


# Of what is found before a rank knows of the others; the words are tests/test_config.py's.
ONE_IS_ENOUGH = pytest.mark.soak


@pytest.fixture(scope="module")
def fail(start, tmp_path_factory):
    """Run the recipe on two ranks, expect it to fail in good order; the job, for its message."""

    def fail(folder, *overrides, env=None, launcher="mpi"):
        stamps = tmp_path_factory.mktemp("stamps")
        script = stamps / "stamp.sh"
        script.write_text(_STAMP)
        script.chmod(0o755)
        job = start(
            [
                str(script),
                sys.executable,
                "recipes/vision.py",
                f"hydra.run.dir={folder}",
                *overrides,
            ],
            np=2,
            launcher=launcher,
            env={"STAMPS": str(stamps), **(env or {})},
            timeout=60,
        )
        code = job.wait()
        end = time.time()
        began = max(float((stamps / rank).read_text()) for rank in "01")
        assert code != 0, job.output
        assert end - began < SECONDS * _crowding(), job.output
        return job

    return fail


def _crowding():
    """How many tasks want each core: what a deadline is stretched by on a busy machine."""
    return max(1.0, os.getloadavg()[0] / len(os.sched_getaffinity(0)))


def the_error(job):
    """The one message; whatever else the job printed is the launcher's."""
    assert len(job.errors) == 1, job.output
    assert "Traceback" not in job.output
    return job.errors[0]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        pytest.param(
            ["trainer.num_step=3"], ["unknown key trainer.num_step", "num_steps?"], id="unknown key"
        ),
        pytest.param(
            ["trainer.log_every=often"], ["trainer.log_every='often'", "a whole number"], id="type"
        ),
        pytest.param(
            ["optimizer=adem"],
            ["optimizer=adem", "did you mean adam?"],
            id="choice",
            marks=ONE_IS_ENOUGH,
        ),
        pytest.param(
            ["trainer.precision=fp46"], ["fp32, fp64", "did you mean fp64?"], id="another choice"
        ),
        pytest.param(["optimizer.lr=-1"], ["optimizer.lr=-1", "above 0"], id="negative rate"),
        pytest.param(
            ["lr=-1"],
            ["unknown key lr", "did you mean optimizer.lr?"],
            id="bare rate",
            marks=ONE_IS_ENOUGH,
        ),
        pytest.param(
            ["data.batch_size=1"], ["data.batch_size=1", "2 slices"], id="batch below world size"
        ),
        pytest.param(
            ["data.batch_size=64", "data.batch_size_per_worker=8"],
            ["data.batch_size=64", "data.batch_size_per_worker=8", "both"],
            id="both batch sizes",
            marks=ONE_IS_ENOUGH,
        ),
        pytest.param(
            ["data=arrays", "data.source.path=/no/such/file.npz"],
            ["/no/such/file.npz", "no such file"],
            id="missing data",
        ),
    ],
)
def test_a_wrong_value_ends_in_one_message(fail, tmp_path, overrides, words):
    job = fail(tmp_path, *overrides)
    message = the_error(job)
    assert [word for word in words if word not in message] == [], job.output
    assert list(tmp_path.iterdir()) == [], "nothing was trained, so nothing may be written"


@pytest.mark.parametrize("launcher", ["mpi", "gloo"])
def test_a_framework_that_is_not_installed_is_named(fail, tmp_path, launcher):
    (tmp_path / "sitecustomize.py").write_text(_HIDE_TENSORFLOW)
    job = fail(
        tmp_path / "run",
        "framework=tensorflow",
        env={"PYTHONPATH": str(tmp_path)},
        launcher=launcher,
    )
    assert len(job.errors) == 1, job.output
    assert "needs the package tensorflow, which is not installed" in job.errors[0]
    assert "hvdkit build-horovod" in job.errors[0]


RANK_ONE_FAILS = """
import os

import numpy as np

from hvdkit.data import ArraySource, ImageDataset


class Source(ArraySource):
    def take(self, indices):
        rank = os.environ.get("OMPI_COMM_WORLD_RANK") or os.environ.get("HOROVOD_RANK")
        if self.reads == 5 and rank == "1":
            raise OSError("the disk of this host is gone")
        self.reads += 1
        return super().take(indices)

    reads = 0


def records():
    images, labels = np.zeros((64, 8, 8, 1), np.float32), np.zeros(64, np.int64)
    source = Source(image=images, label=labels)
    return ImageDataset(train=source, evaluation=source, classes=10)
"""


@pytest.mark.parametrize(
    ("framework", "launcher"), [("torch", "mpi"), ("torch", "gloo"), ("tensorflow", "mpi")]
)
def test_a_rank_that_raises_ends_the_job_and_is_named(recipe, tmp_path, framework, launcher):
    (tmp_path / "broken_records.py").write_text(RANK_ONE_FAILS)
    job = recipe(
        tmp_path / "run",
        f"framework={framework}",
        "~data.source.test_fraction",
        "data.source._target_=broken_records.records",
        "trainer.num_epochs=null",
        "trainer.num_steps=100000",
        np=2,
        launcher=launcher,
        env={"PYTHONPATH": str(tmp_path)},
    )
    assert job.wait() != 0
    assert len(job.errors) == 1, job.output
    assert "rank 1 failed: OSError: the disk of this host is gone" in job.errors[0]
    assert "broken_records.py" in job.errors[0], "where it was raised"
    trace = (tmp_path / "run" / "error-rank-1.txt").read_text()
    assert "in take" in trace


def test_many_runs_in_one_job_are_refused(fail, tmp_path):
    message = the_error(fail(tmp_path, "-m", "optimizer.lr=0.1,0.2"))
    assert "-m inside a running job" in message


def test_a_flag_of_the_launcher_against_the_config_is_refused(fail, tmp_path):
    """Horovod would take one of the two and say nothing."""
    message = the_error(fail(tmp_path, env={"HOROVOD_FUSION_THRESHOLD": "1048576"}))
    assert "HOROVOD_FUSION_THRESHOLD=1048576 comes from the launcher, 0 from the config" in message


def test_horovods_timeline_is_written_where_the_config_says(recipe, tmp_path):
    file = tmp_path / "timeline.json"
    job = recipe(
        tmp_path / "run",
        "debug=short",
        f"comm.timeline={file}",
        np=2,
    )
    assert job.wait() == 0, job.output
    text = file.read_text()
    assert "bucket.0" in text
    assert "NEGOTIATE_ALLREDUCE" in text
