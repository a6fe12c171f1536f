"""A ranking as a table, and what would change it."""

from __future__ import annotations

from star.report.evidence import Evidence
from star.report.grid import Grid, Head, Line, Mark, interval_text
from star.report.method import NAMES
from star.report.ranking import Place, Ranking, ranking
from star.report.stats import MAX_SEEDS
from star.spec.reporting import RankingFigure


def ranking_grids(figure: RankingFigure, evidence: Evidence) -> list[Grid]:
    """One grid, a line for each row, the best first; none while fewer than two rows are measured."""
    found = ranking(figure, evidence)
    if found is None:
        return []
    heads = [
        Head("rank"),
        Head("ranks left open"),
        Head("row", numeric=False),
        Head(found.column.title),
        Head("better than the next by"),
        Head("p, of all pairs"),
        Head("seeds to decide it"),
    ]
    return [Grid(heads, [_line(at, place, found) for at, place in enumerate(found.places, start=1)])]


def _line(at: int, place: Place, found: Ranking) -> Line:
    digits, is_last = found.column.digits, place.ahead is None
    spread = "" if place.half is None else f" ± {place.half:.{digits}f}"
    open_ranks = f"{place.first}" if place.first == place.last else f"{place.first} to {place.last}"
    seeds = (
        ""
        if is_last
        else f"over {MAX_SEEDS}"
        if place.seeds is None and place.p is not None
        else str(place.seeds or "?")
    )
    return Line(
        [
            Mark(str(at)),
            Mark(open_ranks, bold=place.first == place.last),
            Mark(place.row),
            Mark(f"{place.mean:.{digits}f}{spread}"),
            Mark("" if place.ahead is None else interval_text(place.ahead, digits)),
            Mark("" if place.p is None else f"{place.p:.2g}"),
            Mark(seeds),
        ]
    )


def ranking_notes(figure: RankingFigure, evidence: Evidence) -> list[str]:
    """How the ranks were found, and what would change them; empty while fewer than two rows are measured."""
    found = ranking(figure, evidence)
    if found is None:
        return []
    method, rows = NAMES[evidence.experiment.spec.interval], len(found.places)
    counts = sorted({len(place.values) for place in found.places})
    seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    notes = [
        f"Means over {seeds} seeds with their own 95% t intervals. A rank is left open unless a difference forbids it: of {found.pairs} "
        f"pairs of rows {found.decided} are decided at 5% for all of them together ({method}, Holm).",
        "What would change it: other lengths and sizes, which this experiment does not vary unless rows say so; and more seeds. "
        f"{_of_seeds(found, rows)}",
    ]
    return notes


def _of_seeds(found: Ranking, rows: int) -> str:
    left = found.is_open
    if not left:
        return "Every row is better than the next beyond doubt."
    known = [place.seeds for place in left if place.seeds is not None]
    most = f", up to {max(known)} a row for those that a thousand would decide" if known else ""
    return (
        f"{len(left)} of {rows - 1} neighbours cannot be told apart yet; the table says how many seeds likely would, if means and "
        f"spreads stay{most}."
    )
