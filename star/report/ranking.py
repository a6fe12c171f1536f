"""Rows in the order of a column, with the ranks that the differences between them leave open."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import copysign, fsum
from statistics import mean

from star.report.evidence import Evidence
from star.report.method import Judge, judge_by
from star.report.stats import LEVEL, Interval, Sample, half_interval, holm
from star.spec.reporting import Column, RankingFigure


@dataclass(frozen=True)
class Place:
    """One row's place in a ranking."""

    row: str
    values: list[float]
    """One per seed, in the column's unit."""
    first: int
    """The best rank that no decided difference forbids: one more than the rows that are better beyond doubt."""
    last: int
    """The worst such rank."""
    ahead: Interval | None = None
    """By how much it is better than the row below it, in the column's unit; below 0 where other rows' seeds tell otherwise."""
    p: float | None = None
    """Of that difference, after Holm over all pairs of rows."""
    seeds: int | None = None
    """Seeds that would likely decide it by itself; None if that is unknown, or more than a thousand."""
    is_decided: bool = False
    """Whether it is beyond doubt that it is better than the row below it."""

    @property
    def mean(self) -> float:
        """The mean over seeds."""
        return mean(self.values)

    @property
    def half(self) -> float | None:
        """Half of the mean's own 95% t interval; None with one seed."""
        return half_interval(self.values)


@dataclass(frozen=True)
class Ranking:
    """All rows of a column, the best first."""

    column: Column
    places: list[Place]
    pairs: int
    """Pairs of rows."""
    decided: int
    """Pairs whose difference leaves out 0, after Holm over all of them."""

    @property
    def is_open(self) -> list[Place]:
        """Places whose difference to the row below is not decided."""
        return [place for place in self.places[:-1] if not place.is_decided]


def ranking(figure: RankingFigure, evidence: Evidence) -> Ranking | None:
    """The ranking that a figure shows; None while fewer than two of its rows are measured, or they were scored differently."""
    if figure.name not in evidence.rankings:  # a figure, its table and its notes want it, and pairs are many
        evidence.rankings[figure.name] = _ranking(figure, evidence)
    found: Ranking | None = evidence.rankings[figure.name]
    return found


def _ranking(figure: RankingFigure, evidence: Evidence) -> Ranking | None:
    table = evidence.experiment.spec.table
    assert table is not None
    column = next(column for column in table.columns if column.title == figure.column)
    assert column.metric is not None
    numbers = {row: evidence.numbers(row, column.metric) for row in evidence.shown_rows(figure)}
    samples = {row: Sample(1.0, one.values, one.seeds, row) for row, one in numbers.items() if one.values}
    scorings = {scoring for row in samples for scoring in numbers[row].scorings}
    if len(samples) < 2 or len(scorings) > 1:
        return None
    sign = copysign(1.0, column.scale) * (1.0 if column.better == "higher" else -1.0)
    asked, block = evidence.experiment.spec.interval, evidence.block(next(iter(samples)), column.metric)

    def judged(one: str, other: str) -> Judge:
        return judge_by(asked, [_weighted(samples[one], sign), _weighted(samples[other], -sign)], block)

    judges = {pair: judged(*pair) for pair in combinations(samples, 2)}
    by = {pair: judge.estimate().value for pair, judge in judges.items()}
    by |= {(other, one): -value for (one, other), value in by.items()}
    # by the differences that are judged: the means of rows with other seeds may have another order
    order = sorted(samples, key=lambda row: -fsum(by[row, other] for other in samples if other != row))
    adjusted = dict(zip(judges, holm([judge.p() for judge in judges.values()]), strict=True))
    decided = {pair if by[pair] > 0 else pair[::-1] for pair, p in adjusted.items() if p is not None and p < 1 - LEVEL}
    places = []
    for at, row in enumerate(order):
        below = order[at + 1] if at + 1 < len(order) else None
        judge = judged(row, below) if below else None
        places.append(
            Place(
                row,
                [value * column.scale for value in samples[row].values],
                1 + sum(pair[1] == row for pair in decided),
                len(order) - sum(pair[0] == row for pair in decided),
                judge.interval().times(abs(column.scale)) if judge else None,
                adjusted.get((row, below), adjusted.get((below, row))) if below else None,
                _seeds(judge) if judge else None,
                (row, below) in decided,
            )
        )
    return Ranking(column, places, len(judges), len(decided))


def _weighted(sample: Sample, weight: float) -> Sample:
    return Sample(weight, sample.values, sample.seeds, sample.row)


def _seeds(judge: Judge) -> int | None:
    return judge.seeds(judge.estimate().value)
