"""Compressions under real ranks: equal bits, the reference's numbers, and runs that go on."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import numpy as np
import pytest

from hvdkit.callbacks import Callback
from hvdkit.checkpoint import Checkpoints
from hvdkit.comm.threads import run_ranks
from hvdkit.data import TrainData
from hvdkit.optimizers import SGD
from hvdkit.strategies import AllReduce
from hvdkit.trainer import Trainer
from tests.gradients.encodings import FEEDBACK, MAKE, Ranked, gradients

FRAMEWORKS = ("torch", "tensorflow")
RANKS, STEPS = 3, 4
SHAPES = [(40, 30), (8, 4, 3)]
NUMEL = 40 * 30 + 8 * 4 * 3
BAD = 2  # the step at which one rank's gradient is no number


def values(rank):
    """A rank's gradient at each step, with one that must be skipped."""
    found = gradients(rank, STEPS, NUMEL, "float64")
    if rank == 1:
        found[BAD, 7] = np.inf
    return found


def sums(rank, own):
    """What a compression makes of the gradients: each step's sum, and what is left."""
    made = []
    for step in range(STEPS):
        made.append(rank.reduce(own[step] * 3.0, unit=3.0, count=step != BAD))
    return {"sums": [x.tolist() for x in made], "residual": _residual(rank)}


def _residual(rank):
    found = rank.compression.residuals()
    return [found[name].reshape(-1).tolist() for name in sorted(found)]


def encodings(stage):
    """Every compression on the same gradients as the reference's, by this framework's tensors."""
    ops = stage.adapter().ops
    own = values(stage.rank)
    return {
        name: sums(Ranked(make(), stage.comm, shapes=SHAPES, dtype="float64", ops=ops), own)
        for name, make in MAKE.items()
    }


def _strategy(name, **options):
    return AllReduce(compression=MAKE[name](), bucket_mb=0.01, **options)


def training(stage):
    """Every compression trains, compiled where the framework compiles."""
    found = {}
    for name in MAKE:
        run = stage.train(
            steps=12,
            precision="fp32",
            optimizer=SGD(lr=0.05, momentum=0.9),
            strategy=_strategy(name),
        )
        sent, plain = run.adapter.strategy.wire_bytes()
        residual = sum(float(np.abs(x).sum()) for x in run.adapter.strategy.own_state().values())
        found[name] = {
            "weights": run.digest,
            "losses": run.losses,
            "ratio": sent / plain,
            "residual": residual,
        }
    return found


def chunked(stage):
    """A bucket in messages of 400 bytes is the bucket whole."""
    return [
        stage.train(steps=5, strategy=_strategy("none", chunk_mb=size)).losses
        for size in (None, 400 / 2**20)
    ]


def fit(stage, name, folder, steps, *, resume=False):
    trainer = Trainer(
        stage.adapter(precision="fp32", strategy=_strategy(name)),
        TrainData(stage.dataset.train, stage.task, batch_size=32, seed=0, prefetch=0),
        num_steps=steps,
        folder=folder,
        resume=resume,
    )
    trainer.fit()
    return trainer


def resumed(stage):
    """Runs of six steps, whole and in halves: the second goes on from the first's checkpoint."""
    found = {}
    for name in FEEDBACK:
        place = stage.folder / name
        whole = fit(stage, name, place / "whole", 6).adapter.weights_sha256()
        fit(stage, name, place / "halves", 3)
        halves = fit(stage, name, place / "halves", 6, resume=True).adapter.weights_sha256()
        found[name] = [whole, halves]
    return {"folder": str(stage.folder), "weights": found}


def taken_up(stage):
    """On another number of ranks, in this framework: what the ranks hold back in all."""
    found = {}
    for name in FEEDBACK:
        place = Path(os.environ["HVDKIT_TEST_RUNS"], name, "whole")
        saved = Checkpoints(place / "checkpoints", stage.comm).newest()
        assert saved is not None
        trainer = fit(stage, name, place, 6, resume=True)  # it is at its end already
        own = stage.comm.all_gather_object(trainer.adapter.strategy.own_state())
        there = saved.sums_of_own()
        found[name] = {
            "weights": trainer.adapter.weights_sha256(),
            "sizes": {key: float(np.abs(x).sum()) for key, x in there.items()},
            "differences": {
                key: float(np.abs(sum(each[key] for each in own) - x).max())
                for key, x in there.items()
            },
        }
    return found


class Exchange(Callback):
    """Has a run go on with another compression every two steps, as autotune's trials do."""

    every_rank = True

    def __init__(self, *names):
        self.names, self.steps, self.owed = iter(names), 0, []

    def on_step(self, trainer):
        self.steps += 1
        name = next(self.names, None) if self.steps % 2 == 0 else None
        if name is None:
            return
        strategy = trainer.adapter.strategy
        before = strategy.own_state()
        strategy.exchange(MAKE[name]())
        trainer.adapter.lay_out(strategy.planned_with())
        after = strategy.own_state()
        lost = {key: float(np.abs(after.get(key, 0.0) - x).max()) for key, x in before.items()}
        size = sum(float(np.abs(x).sum()) for x in before.values())
        self.owed.append({"to": name, "size": size, "lost": max(lost.values(), default=0.0)})


def exchanged(stage):
    """A run through every kind of compression."""
    exchange = Exchange("topk", "int8", "none", "bf16", "powersgd")
    run = stage.train(steps=14, strategy=_strategy("int8"), callbacks=[exchange])
    return {"weights": run.digest, "losses": run.losses, "owed": exchange.owed}


CASES = (encodings, training, chunked, exchanged, resumed)


@pytest.fixture(scope="module")
def reference():
    """What the NumPy ranks make of the same gradients."""

    def body(comm, make):
        with np.errstate(all="ignore"):
            return sums(Ranked(make(), comm, shapes=SHAPES, dtype="float64"), values(comm.rank))

    return {
        name: run_ranks(RANKS, functools.partial(body, make=make)) for name, make in MAKE.items()
    }


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_both_frameworks_send_what_the_reference_sends(on_ranks, reference, framework, name):
    for rank, result in enumerate(on_ranks(*CASES, framework=framework, np=RANKS)):
        found, expected = result["encodings"][name], reference[name][rank]
        for step in range(STEPS):
            got, wanted = np.array(found["sums"][step]), np.array(expected["sums"][step])
            if step == BAD:
                assert not np.isfinite(got.sum())
                continue
            # Horovod adds halves in another order.
            bound = 4e-3 * np.abs(wanted).max() if name == "fp16" else 1e-9
            np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=bound)
        for got, wanted in zip(found["residual"], expected["residual"], strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_all_ranks_train_alike(on_ranks, framework, name):
    first, *others = [r["training"] for r in on_ranks(*CASES, framework=framework, np=RANKS)]
    for other in others:
        assert other[name]["weights"] == first[name]["weights"]
    losses = first[name]["losses"]
    assert losses[-1] < 0.9 * losses[0]
    if name != "none":
        assert losses == pytest.approx(first["none"]["losses"], rel=0.3)
        assert losses != first["none"]["losses"]
        assert first[name]["ratio"] < first["none"]["ratio"] == 1.0
    assert (first[name]["residual"] > 0) == (name in ("int8", "topk", "powersgd"))


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_bucket_in_pieces_is_the_bucket(on_ranks, framework):
    for result in on_ranks(*CASES, framework=framework, np=RANKS):
        whole, pieces = result["chunked"]
        assert pieces == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_run_goes_on_with_another_compression(on_ranks, framework):
    """What one holds back is the next one's to send; one that sends all of it drops that."""
    first, *others = [r["exchanged"] for r in on_ranks(*CASES, framework=framework, np=RANKS)]
    for other in others:
        assert other["weights"] == first["weights"]
    assert first["losses"][-1] < 0.9 * first["losses"][0]
    to_topk, to_int8, to_none, to_bf16, to_powersgd = first["owed"]
    assert to_topk["size"] > 0
    assert to_topk["lost"] == 0.0
    assert to_int8["size"] > 0
    assert to_int8["lost"] == 0.0
    assert to_none["size"] > 0
    assert to_none["lost"] > 0
    assert to_bf16["size"] == to_powersgd["size"] == 0.0


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_run_in_halves_is_the_whole_run_to_the_bit(on_ranks, framework):
    for result in on_ranks(*CASES, framework=framework, np=RANKS):
        for name, (whole, halves) in result["resumed"]["weights"].items():
            assert whole == halves, name


def test_residuals_go_on_in_the_other_framework_on_another_number_of_ranks(on_ranks):
    before = on_ranks(*CASES, framework="torch", np=RANKS)[0]["resumed"]
    env = {"HVDKIT_TEST_RUNS": before["folder"]}
    for result in on_ranks(taken_up, framework="tensorflow", np=2, env=env):
        for name, found in result["taken_up"].items():
            assert found["weights"] == before["weights"][name][0]
            assert all(size > 0 for size in found["sizes"].values())
            assert max(found["differences"].values()) == 0.0
