"""The same search where an engine has the queue: a real Slurm, a real Ray."""

from __future__ import annotations

from pathlib import Path

from optuna.trial import TrialState

from tests.search.lab import SearchLab
from tests.search.test_search import FEW
from tests.services import RayCluster, Slurm


def test_trials_run_on_slurm(tmp_path: Path, images: Path, slurm: Slurm) -> None:
    lab = SearchLab(tmp_path, *FEW)
    said = lab.search("--executor", "slurm", "--parallel", "2", "--trials", "2")
    assert "2 at a time on slurm" in said
    assert [trial.state for trial in lab.trials()] == [TrialState.COMPLETE] * 2


def test_trials_run_on_ray(tmp_path: Path, images: Path, ray_cluster: RayCluster) -> None:
    lab = SearchLab(tmp_path, *FEW)
    said = lab.search("--executor", "ray", "--parallel", "2", "--trials", "2")
    assert "2 at a time on ray" in said
    assert [trial.state for trial in lab.trials()] == [TrialState.COMPLETE] * 2
