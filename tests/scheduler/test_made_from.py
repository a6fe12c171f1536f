"""What `rerun` computes again: a job, and all that was made from it."""

from __future__ import annotations

import pytest

from star.ledger.database import Database
from star.ledger.migrate import migrate
from star.ledger.states import NewJob, RunRow
from star.ledger.store import Ledger
from star.scheduler.gc import _users
from star.scheduler.job_actions import with_all_made_from


@pytest.mark.parametrize("content", [None, {"inputs": {}}])
def test_what_was_made_from_a_job_is_found_with_and_without_what_its_key_was_made_of(
    database: str, content: dict[str, object] | None
) -> None:
    """Ledgers of the first version, and jobs that were imported, know no contents; a run then has what it reads."""
    opened = Database(database)
    migrate(opened)
    ledger = Ledger(opened)
    order = ("dataset", "tokenizer", "encode", "train", "reference", "generate", "score")
    keys = {stage: f"{i:016x}" for i, stage in enumerate(order)}
    told: dict[str, dict[str, object] | None] = dict.fromkeys(order)
    if content is not None:
        told["generate"] = {"inputs": {"train": keys["train"], "tokenizer": keys["tokenizer"]}}
    ledger.jobs.add([NewJob(key, stage, "", 0, told[stage]) for stage, key in keys.items()])
    ledger.runs.add([RunRow("a" * 16, "a row", 0, {}, keys, None, 0.0)])
    found = {stage: with_all_made_from(ledger, [keys[stage]]) for stage in ("train", "tokenizer", "reference")}
    assert found["train"] == {keys[stage] for stage in ("train", "generate", "score")}
    assert found["tokenizer"] == {keys[stage] for stage in ("tokenizer", "encode", "train", "generate", "score")}
    assert found["reference"] == {keys[stage] for stage in ("reference", "score")}


def test_what_a_terms_stage_made_is_read_by_the_training_and_kept_for_it(database: str) -> None:
    """A training reads `features`, or the tokenizer, only if a term does; the platform's own declaration does not say."""
    opened = Database(database)
    migrate(opened)
    ledger = Ledger(opened)
    keys = {
        stage: f"{i:016x}" for i, stage in enumerate(("dataset", "tokenizer", "encode", "features", "train", "probe"))
    }
    contents: dict[str, dict[str, object]] = {
        "train": {"inputs": {name: keys[name] for name in ("encode", "features", "tokenizer")}}
    }
    ledger.jobs.add([NewJob(key, stage, "", 0, contents.get(stage)) for stage, key in keys.items()])
    ledger.runs.add([RunRow("a" * 16, "a row", 0, {}, keys, None, 0.0)])
    assert with_all_made_from(ledger, [keys["features"]]) == {keys[stage] for stage in ("features", "train", "probe")}
    used = _users(ledger, left_out=False)
    assert used[keys["features"]] == {keys["train"]} and keys["train"] in used[keys["tokenizer"]]
