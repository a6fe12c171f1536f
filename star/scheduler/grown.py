"""An experiment that was run with `--seeds auto` has the seeds that its last run gave it, whatever its file lists."""

from __future__ import annotations

from collections import Counter

from star.rundir import Home, read_json
from star.scheduler.records import record_path
from star.spec.experiment import Experiment
from star.spec.seeds import with_seeds


def grown(experiment: Experiment, home: Home) -> Experiment:
    """The experiment with the seeds that `--seeds auto` has added in this home; itself if it has not, or seeds are given."""
    counts = recorded_counts(experiment, home)
    return experiment if counts is None or experiment.seeding == "given" else with_seeds(experiment, counts)


def recorded_counts(experiment: Experiment, home: Home) -> dict[str, int] | None:
    """Row label -> seeds that `--seeds auto` has given it in this home; None if it never ran here."""
    record = read_json(record_path(home, experiment.name, experiment.profile)) or {}
    return dict(Counter(row["row"] for row in record["rows"])) if record.get("auto") else None
