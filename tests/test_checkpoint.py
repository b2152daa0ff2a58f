"""A checkpoint is whole or not there: round trips, every kind of damage, and being killed."""

from __future__ import annotations

import json
import logging
import pickle
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from hvdkit.adapters.shard import Shard
from hvdkit.checkpoint import Checkpoints, Saved, manifest_sha256
from hvdkit.comm import Comm, SoloComm, part_sizes
from hvdkit.comm.threads import run_ranks
from hvdkit.errors import HvdkitError

CHILDREN = Path(__file__).parent / "checkpoint_children.py"


def arrays(step: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(step)
    return {
        "params/w": random.normal(size=(5, 3)),
        "params/half": random.normal(size=7).astype(np.float16),
        "statistics/count": np.array(step),
        "transposed": random.normal(size=(4, 6)).astype(np.float32).T,
    }


def save(folder: Path, *steps: int, keep: int = 9) -> Checkpoints:
    checkpoints = Checkpoints(folder, SoloComm(), keep=keep)
    for step in steps:
        state = {name: Shard.whole(array) for name, array in arrays(step).items()}
        checkpoints.save(step, state, {"seed": 7})
    return checkpoints


def assert_holds(saved: Saved | None, step: int) -> None:
    assert saved is not None
    assert saved.step == step
    found = saved.arrays()
    assert found.keys() == arrays(step).keys()
    for name, array in arrays(step).items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def steps_in(folder: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in folder.glob("step-*"))


def test_what_was_saved_is_found(tmp_path: Path) -> None:
    saved = save(tmp_path, 3, 11).newest()
    assert_holds(saved, 11)
    assert saved is not None
    assert saved.manifest["seed"] == 7
    assert saved.manifest["world_size"] == 1
    assert (tmp_path / "latest").read_text().strip() == "step-00000011"


def test_none_at_all_is_none(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "absent", SoloComm()).newest() is None


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_the_ranks_shards_are_put_together(tmp_path: Path, ranks: int) -> None:
    whole = np.arange(35.0).reshape(5, 7)

    def body(comm: Comm) -> dict[str, np.ndarray]:
        sizes = part_sizes(whole.size, comm.size)
        offset = sum(sizes[: comm.rank])
        part = whole.reshape(-1)[offset : offset + sizes[comm.rank]]
        state = {"optimizer/m/w": Shard(part, offset, whole.shape)}
        if comm.rank == 0:
            state["params/b"] = Shard.whole(np.ones(3))
        checkpoints = Checkpoints(tmp_path, comm)
        checkpoints.save(5, state, {})
        saved = checkpoints.newest()
        assert saved is not None
        return saved.arrays()

    for found in run_ranks(ranks, body):
        np.testing.assert_array_equal(found["optimizer/m/w"], whole)
        np.testing.assert_array_equal(found["params/b"], np.ones(3))


def test_a_run_that_comes_back_past_damaged_ones_keeps_its_own(tmp_path: Path) -> None:
    save(tmp_path, 100, 200, 300)
    save(tmp_path, 150, keep=1)
    assert steps_in(tmp_path) == [150]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_not_saved(tmp_path: Path, value: float) -> None:
    checkpoints = save(tmp_path, 10)
    state = {"params/w": Shard.whole(np.array([1.0, value]))}
    with pytest.raises(HvdkitError, match="params/w holds a value that is not finite"):
        checkpoints.save(20, state, {})
    saved = checkpoints.newest()
    assert saved is not None
    assert saved.step == 10


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_newest_are_kept(tmp_path: Path, keep: int) -> None:
    checkpoints = save(tmp_path, 9, 10, 100, 101, keep=keep)
    assert steps_in(tmp_path) == [9, 10, 100, 101][-keep:]
    assert_holds(checkpoints.newest(), 101)


def state_file(folder: Path) -> Path:
    (path,) = folder.glob("*.safetensors")
    return path


def rewrite_manifest(folder: Path, **changed: object) -> None:
    """Change some of a manifest as one who means to, with its digest."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text()) | changed
    path.write_text(json.dumps(manifest | {"sha256": manifest_sha256(manifest)}))


def edit_manifest(folder: Path, **changed: object) -> None:
    """Change some of a manifest as an accident does."""
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    contents = bytearray(path.read_bytes())
    contents[-3] ^= 1
    path.write_bytes(contents)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "truncated": lambda folder: cut(state_file(folder)),
    "one bit altered": lambda folder: flip(state_file(folder)),
    "emptied": lambda folder: state_file(folder).write_bytes(b""),
    "state missing": lambda folder: state_file(folder).unlink(),
    "manifest missing": lambda folder: (folder / "manifest.json").unlink(),
    "manifest truncated": lambda folder: cut(folder / "manifest.json"),
    "manifest of another kind": lambda folder: (folder / "manifest.json").write_text("[1]"),
    "manifest not text": lambda folder: (folder / "manifest.json").write_bytes(b"\xff\xfe\x00"),
    "manifest edited": lambda folder: edit_manifest(folder, seed=8),
    "another format": lambda folder: rewrite_manifest(folder, format_version=99),
    "no step": lambda folder: rewrite_manifest(folder, step=None),
    "no files": lambda folder: rewrite_manifest(folder, files=None),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_one_is_named_and_passed_over(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = save(tmp_path, 1, 2)
    DAMAGE[kind](tmp_path / "step-00000002")
    with caplog.at_level(logging.WARNING, "hvdkit"):
        assert_holds(checkpoints.newest(), 1)
    assert "step-00000002 is damaged" in caplog.text
    DAMAGE[kind](tmp_path / "step-00000001")
    with pytest.raises(HvdkitError, match=r"none of the 2 checkpoints is whole.*resume=false"):
        checkpoints.newest()


def test_a_damaged_one_is_replaced_when_the_run_comes_back_to_it(tmp_path: Path) -> None:
    checkpoints = save(tmp_path, 1, 2)
    cut(state_file(tmp_path / "step-00000002"))
    save(tmp_path, 2)
    assert_holds(checkpoints.newest(), 2)


class Bomb:
    """Unpickling this would leave a file behind."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.trace,))


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    checkpoints = save(tmp_path / "checkpoints", 1)
    folder, trace = tmp_path / "checkpoints/step-00000001", tmp_path / "executed"
    path = state_file(folder)
    path.write_bytes(pickle.dumps(Bomb(trace)))
    # Even where the manifest was altered to vouch for it.
    files = json.loads((folder / "manifest.json").read_text())["files"]
    files[path.name]["sha256"] = sha256(path.read_bytes()).hexdigest()
    rewrite_manifest(folder, files=files)
    saved = checkpoints.newest()
    assert saved is not None
    with pytest.raises(HvdkitError, match=path.name):
        saved.arrays()
    assert not trace.exists()


def test_what_a_killed_process_left_goes_with_the_next_one(tmp_path: Path) -> None:
    save(tmp_path, 1)
    for name in (".step-00000002.partial", ".step-00000001.old.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "state-00000.safetensors").write_text("half of it")
    save(tmp_path, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "latest",
        "step-00000001",
        "step-00000003",
    ]


def test_an_error_of_one_rank_is_everyones(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    def body(comm: Comm) -> str:
        with pytest.raises(HvdkitError, match="rank 0") as caught:
            Checkpoints(tmp_path / "file", comm).save(1, {}, {})
        return str(caught.value)

    assert len(set(run_ranks(3, body))) == 1


def child(*arguments: str) -> list[dict]:
    """Run a scenario of checkpoint_children.py, and return the lines it printed."""
    done = subprocess.run(
        [sys.executable, CHILDREN, *arguments], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_killed_at_any_moment_a_whole_one_is_left(tmp_path: Path) -> None:
    outcomes = child("killed", str(tmp_path))
    *killed, last = outcomes
    assert last["status"] == 0, "the last child was to get to the end"
    assert len(killed) > 10, "there are more moments than that to be killed at"
    for outcome in killed:
        assert outcome["status"] == 9
        assert outcome["newest"] in (1, 2)
        assert outcome["as_saved"], outcome
        assert not outcome["damaged"], "what has a checkpoint's name must be whole"
        assert outcome["after"] == 3, "the next save must not trip over what was left"
    order = [outcome["newest"] for outcome in outcomes]
    assert order == sorted(order)
    assert order[0] == 1
    assert order[-1] == 2


@pytest.mark.parametrize("what", ["arrays", "manifest"])
def test_a_full_disk_is_an_error_on_every_rank_and_leaves_the_previous(
    tmp_path: Path, what: str
) -> None:
    (outcome,) = child("full", str(tmp_path), what)
    first, *others = outcome["errors"]
    assert "File too large" in first
    assert others == [first]
    assert outcome["newest"] == 1
    assert outcome["as_saved"]
