"""Studies on the ledger's PostgreSQL: beside its tables, and readable by whoever has the address."""

from __future__ import annotations

import os
from pathlib import Path

import optuna
import pytest
from sqlalchemy import inspect

from star.ledger.database import Database
from star.rundir import Home
from star.search.browse import studies
from star.search.study import SCHEMA, studies_url
from tests.search.lab import SearchLab
from tests.search.test_search import FEW
from tests.services import Postgres


def test_a_study_lives_beside_the_ledger(
    tmp_path: Path, images: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAR_LEDGER_URL", postgres.new_database())
    assert studies(Home(tmp_path)) == [] and not _schemas()  # to look makes nothing
    lab = SearchLab(tmp_path, *FEW)
    lab.run(total=3)
    lab.run(total=4)
    assert len(lab.trials()) == 4 and not (tmp_path / "studies.sqlite").exists()
    seen = optuna.load_study(study_name="tiny-search@tiny", storage=studies_url(Home(tmp_path)))
    assert [trial.number for trial in seen.trials] == [0, 1, 2, 3]
    assert [study.name for study in studies(Home(tmp_path))] == ["tiny-search@tiny"]


def _schemas() -> list[str]:
    """Schemas of studies in the ledger's database."""
    database = Database(os.environ["STAR_LEDGER_URL"])
    return [name for name in database.read(lambda c: inspect(c).get_schema_names()) if name == SCHEMA]
