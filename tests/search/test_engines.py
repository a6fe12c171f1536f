"""The same search where an engine has the queue: a real Slurm."""

from __future__ import annotations

from pathlib import Path

from optuna.trial import TrialState

from tests.search.lab import SearchLab
from tests.search.test_search import FEW
from tests.services import Slurm


def test_trials_run_on_slurm(tmp_path: Path, images: Path, slurm: Slurm) -> None:
    lab = SearchLab(tmp_path, *FEW)
    said = lab.search("--executor", "slurm", "--parallel", "2", "--trials", "2")
    assert "2 at a time on slurm" in said
    assert [trial.state for trial in lab.trials()] == [TrialState.COMPLETE] * 2
