"""The recommender recipe: better than popularity on two ranks, clicks, and what does not fit."""

from __future__ import annotations

import json

import pytest

from tests.data.recommender_files import write_clicks, write_ratings


@pytest.mark.parametrize(("framework", "model"), [("torch", "neumf"), ("tensorflow", "mf")])
def test_a_model_ranks_better_than_popularity(recipe, tmp_path, framework, model):
    words = (f"framework={framework}", f"model={model}", "trainer.num_epochs=7")
    job = recipe(tmp_path / "run", *words, program="recsys", np=2, timeout=250)
    assert job.wait() == 0, job.output
    found = json.loads((tmp_path / "run/summary.json").read_text())["eval"]
    assert set(found) == {
        "loss",
        *(f"{who}{what}_at_10" for who in ("", "popularity_") for what in ("hit_rate", "ndcg")),
    }
    assert found["popularity_hit_rate_at_10"] == 0.505  # of 2,000 users, whatever the model
    assert found["hit_rate_at_10"] > found["popularity_hit_rate_at_10"] + 0.1
    assert found["ndcg_at_10"] > found["popularity_ndcg_at_10"] + 0.08
    # The two stand beside each other at the end.
    assert f"test hit_rate_at_10 {found['hit_rate_at_10']:.4f}" in job.output
    assert "test popularity_hit_rate_at_10 0.5050" in job.output


def test_clicks_train_from_one_cache_for_all_ranks(recipe, tmp_path):
    write_clicks(tmp_path / "data", lines=61)
    words = ("data=criteo", "model=dlrm", f"data.source.path={tmp_path / 'data'}")
    small = ("data.source.buckets=50", "data.batch_size=7", "trainer.num_epochs=2")
    job = recipe(
        tmp_path / "run",
        *words,
        *small,
        f"data.source.cache={tmp_path / 'cache'}",
        program="recsys",
        np=2,
    )
    assert job.wait() == 0, job.output
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["steps"] == 15  # 2 epochs of 52 records
    assert set(summary["eval"]) == {"loss", "accuracy", "auc"}
    assert 0 <= summary["eval"]["auc"] <= 1
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_bad_line_ends_all_ranks_with_one_message(recipe, tmp_path):
    write_clicks(tmp_path / "data")
    with (tmp_path / "data/train.txt").open("a") as file:
        file.write("1\t2\n")
    words = ("data=criteo", "model=dlrm", f"data.source.path={tmp_path / 'data'}")
    cache = f"data.source.cache={tmp_path / 'cache'}"
    job = recipe(tmp_path / "run", *words, cache, program="recsys", np=2)
    assert job.wait() != 0
    (error,) = job.errors
    assert "train.txt:61: 2 fields instead of 40" in error


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["model=dlrm"], "DLRM takes no users and items"),
        (["data=digits"], "gives a ImageDataset"),
        (["model=mlp"], "is not for this recipe: use recipes/vision.py"),
        (["data.source.evaluation_negatives=999"], "too few for"),
    ],
)
def test_what_does_not_fit_is_said(recipe, tmp_path, words, says):
    job = recipe(tmp_path / "run", *words, program="recsys")
    assert job.wait() != 0
    (error,) = job.errors
    assert says in error


def test_ratings_that_are_skipped_are_counted(recipe, tmp_path):
    write_ratings(tmp_path / "data")
    with (tmp_path / "data/ratings.csv").open("a") as file:
        file.write("7,8\n")
    words = ("data=movielens", f"data.source.path={tmp_path / 'data'}", "model=mf")
    job = recipe(
        tmp_path / "run",
        *words,
        "data.on_bad_record=skip",
        "trainer.num_steps=2",
        program="recsys",
    )
    assert job.wait() == 0, job.output
    assert "ratings.csv:602: 2 fields instead of 4" in job.output
    assert json.loads((tmp_path / "run/summary.json").read_text())["bad_records"] == 1
