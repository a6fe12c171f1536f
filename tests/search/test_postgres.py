"""Studies on the ledger's PostgreSQL: beside its tables, and readable by whoever has the address."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest

from star.rundir import Home
from star.search.study import studies_url
from tests.search.lab import SearchLab
from tests.search.test_search import FEW
from tests.services import Postgres


def test_a_study_lives_beside_the_ledger(
    tmp_path: Path, images: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAR_LEDGER_URL", postgres.new_database())
    lab = SearchLab(tmp_path, *FEW)
    lab.run(total=3)
    lab.run(total=4)
    assert len(lab.trials()) == 4 and not (tmp_path / "studies.sqlite").exists()
    seen = optuna.load_study(study_name="tiny-search@tiny", storage=studies_url(Home(tmp_path)))
    assert [trial.number for trial in seen.trials] == [0, 1, 2, 3]
