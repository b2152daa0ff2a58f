"""The NLP recipe on real ranks: one tokenizer for all, files left out, and how well it learns."""

from __future__ import annotations

import json
import time

import pytest


def test_ranks_share_the_tokenizer_that_rank_0_learned(recipe, tmp_path):
    folder, cache = tmp_path / "text", tmp_path / "cache"
    folder.mkdir()
    for i in range(12):
        (folder / f"{i}.txt").write_text(f"Cat number {i} sat on the mat, and slept.\n" * 10)
    (folder / "odd.txt").write_bytes(b"caf\xe9\n")
    words = [
        "data=masked_text",
        "model=bert_tiny",
        "data.on_bad_record=skip",
        f"data.source.path={folder}",
        "data.source.vocabulary=300",
        "data.source.context=16",
        "data.batch_size=5",
        "trainer.num_steps=4",
        "trainer.eval_every=null",
    ]
    run = tmp_path / "run"
    job = recipe(run, *words, program="nlp", np=2, env={"HVDKIT_CACHE": str(cache)})
    assert job.wait() == 0, job.output
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "completed"
    assert set(summary["eval"]) == {"loss", "accuracy", "perplexity"}
    assert summary["bad_records"] == 1
    assert len(list((cache / "tokenizers").iterdir())) == 1


def test_a_model_for_other_data_is_refused_in_words(recipe, tmp_path):
    job = recipe(tmp_path / "run", "model=bert_tiny", "data.source.path=LICENSE", program="nlp")
    assert job.wait() == 1
    (message,) = job.errors
    assert "BERT learns masked_tokens or classes, and the data is for next_token" in message


@pytest.mark.soak
@pytest.mark.parametrize("framework", ["torch", "tensorflow"])
def test_the_default_learns_python_in_five_minutes(framework, recipe, tmp_path):
    start = time.monotonic()
    job = recipe(tmp_path, f"framework={framework}", program="nlp", np=2, timeout=600)
    assert job.wait() == 0, job.output
    assert time.monotonic() - start < 300
    found = json.loads((tmp_path / "summary.json").read_text())["eval"]
    assert set(found) == {"loss", "accuracy", "perplexity", "bits_per_byte"}
    assert found["bits_per_byte"] < 2.5
