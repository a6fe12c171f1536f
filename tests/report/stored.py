"""An experiment whose tracked numbers a test writes down: real spec, real plan, no run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from star.report.evidence import Evidence
from star.report.published import check
from star.rundir import Home
from star.scheduler.plan import make_plan
from star.spec.load import load
from star.tracking.reader import TrackedRun
from tests.helpers import ROOT

FD = "score/efficientnet-lite0/frechet_distance"
PROVENANCE = (
    '{"code": "0.1.0+abc", "cpu": "some CPU (AVX2)", "device": "x86_64", "gpus": [], "threads": 1, "processes": 1}'
)
STUDY = """
experiment: study
title: A study
profile: tiny
seeds: [0, 1, 2]
rows:
  - label: plain
    group: without
    spec: {selfguided: {mim_weight: 0, contrastive_weight: 0}}
    published: {mask_ratio: 0.15}
  - label: a & b_1
    group: with
    spec: {selfguided: {mask_ratio: 0.25}}
    published: {mask_ratio: 0.25}
  - label: c|d
    group: with
    spec: {selfguided: {mask_ratio: 0.5}}
    published: {mask_ratio: 0.35}
  - label: theirs
    group: literature
    paper_only: true
    published: {mask_ratio: 0.45}
targets: [score, probe, attention, invariance]
"""
TABLE = """
table:
  caption: A study of 50% & more
  published: table4
  baseline: plain
  columns:
    - {title: Row, label: true}
    - {title: FD, metric: "score/{extractor}/frechet_distance", better: lower, published: fid}
    - {title: Probe %, metric: probe/accuracy, better: higher, scale: 100}
"""


@dataclass
class Stored:
    """A reader of numbers that are written down here, by run key."""

    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    points: dict[str, dict[str, dict[int, float]]] = field(default_factory=dict)
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    tags: dict[str, dict[str, str]] = field(default_factory=dict)
    questions: int = 0

    def runs(self, bound: Mapping[str, str | None]) -> dict[str, TrackedRun]:
        known = self.metrics.keys() | self.points.keys() | self.files.keys()
        return {
            key: TrackedRun(
                f"id-{key}",
                "1",
                "",
                self.metrics.get(key, {}),
                {f"star.provenance.{stage}": PROVENANCE for stage in ("train", "score", "probe")}
                | self.tags.get(key, {}),
            )
            for key in bound
            if key in known
        }

    def curves(self, ids: Sequence[str], metric: str) -> dict[str, dict[int, float]]:
        self.questions += 1
        return {one: found for one in ids if (found := self.points.get(one.removeprefix("id-"), {}).get(metric))}

    def file(self, run: TrackedRun, path: str) -> bytes | None:
        return self.files.get(run.id.removeprefix("id-"), {}).get(path)


@dataclass
class Study:
    """An experiment and what a test says is tracked of it."""

    folder: Path
    text: str = STUDY + TABLE
    stored: Stored = field(default_factory=Stored)

    def __post_init__(self) -> None:
        (self.folder / "profiles").symlink_to(ROOT / "tests" / "profiles")
        (self.folder / "study.yaml").write_text(self.text)
        self.experiment = load(self.folder / "study.yaml")
        check(self.experiment)
        self.plan = make_plan(self.experiment, Home(self.folder), None)

    def keys(self, label: str) -> list[str]:
        """Run keys of a row, by seed."""
        return [run.key for run in self.plan.runs if run.label == label]

    def put(self, label: str, metric: str, *values: float | None) -> None:
        """One value per seed; None leaves it out."""
        for key, value in zip(self.keys(label), values, strict=False):
            if value is not None:
                self.stored.metrics.setdefault(key, {})[metric] = value

    def put_curve(self, label: str, metric: str, *curves: Mapping[int, float]) -> None:
        """One curve per seed."""
        for key, curve in zip(self.keys(label), curves, strict=False):
            self.stored.points.setdefault(key, {})[metric] = dict(curve)

    def put_file(self, label: str, path: str, content: bytes, seed: int = 0) -> None:
        """A file that one run has attached."""
        self.stored.files.setdefault(self.keys(label)[seed], {})[path] = content

    @property
    def evidence(self) -> Evidence:
        """As a report reads it."""
        return Evidence(self.plan, None, self.stored)
