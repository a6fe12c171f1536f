"""A ranking: rows from the best down, each seed a dash, means with intervals, and the ranks that are left open."""

from __future__ import annotations

from typing import Any

from star.report.evidence import Evidence
from star.report.figures import style
from star.report.markup import ARROWS
from star.report.ranking import ranking
from star.spec.reporting import RankingFigure


def draw_ranking(figure: RankingFigure, evidence: Evidence) -> Any | None:
    """Draw the rows of a ranking; None while fewer than two are measured."""
    found = ranking(figure, evidence)
    if found is None:
        return None
    labels = [style.shown(place.row) for place in found.places]
    drawing, ((axis, ranks),) = style.new(
        1,
        2,
        0.7 + 0.19 * len(labels) * (1 + max(label.count("\n") for label in labels)),
        sharey=True,
        gridspec_kw={"width_ratios": [3, 1]},
    )
    for at, place in enumerate(found.places, start=1):
        axis.plot(place.values, [at] * len(place.values), linestyle="", marker="|", color="0.55", markersize=6)
        axis.errorbar(place.mean, at, xerr=place.half, marker="o", color="C0", markersize=3.5, capsize=2)
        ranks.plot([place.first, place.last], [at, at], color="C0", linewidth=2.0, solid_capstyle="round")
        ranks.plot(at, at, marker="o", color="C0", markersize=3.5)
    axis.set_yticks(range(1, len(labels) + 1), labels)
    axis.invert_yaxis()
    axis.set_xlabel(f"{found.column.title}{ARROWS[found.column.better]}")
    ranks.set_xlabel("ranks left open")
    axis.set_title(
        f"{evidence.experiment.profile}, {style.counted([len(place.values) for place in found.places])}", loc="left"
    )
    return drawing
