"""Figures of a report, as PNG and PDF. matplotlib and seaborn are imported when the first one is drawn."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from star.report.evidence import Evidence
from star.report.table import Table
from star.rundir import write_bytes
from star.spec.reporting import (
    AblationFigure,
    AttentionFigure,
    CodesFigure,
    CurvesFigure,
    FigureSpec,
    RankingFigure,
    SamplesFigure,
    TrendFigure,
)


def draw(figure: FigureSpec, evidence: Evidence, table: Table | None) -> Any | None:
    """Draw a matplotlib figure; None while none of its data is tracked."""
    if isinstance(figure, CurvesFigure):
        from star.report.figures.curves import draw_curves

        return draw_curves(figure, evidence)
    if isinstance(figure, AblationFigure):
        from star.report.figures.ablation import draw_ablation

        assert table is not None
        return draw_ablation(figure, table)
    if isinstance(figure, TrendFigure):
        from star.report.figures.trend import draw_trend

        return draw_trend(figure, evidence)
    if isinstance(figure, RankingFigure):
        from star.report.figures.ranking import draw_ranking

        return draw_ranking(figure, evidence)
    from star.report.figures import arrays

    drawn: dict[type[FigureSpec], Callable[..., Any]] = {
        AttentionFigure: arrays.draw_attention,
        CodesFigure: arrays.draw_codes,
        SamplesFigure: arrays.draw_samples,
    }
    return drawn[type(figure)](figure, evidence)


def write(figure: FigureSpec, evidence: Evidence, table: Table | None, folder: Path) -> Path | None:
    """Draw a figure into FOLDER/NAME.png and .pdf; returns the PNG's path, or None while none of its data is tracked.

    Characters that no installed font has become boxes, with a note on standard error.
    """
    from star.report.figures.style import find_fonts, letters_without_font

    for last in (False, True):
        with letters_without_font() as letters:
            path = _write(figure, evidence, table, folder)
        if not letters or last or not find_fonts():
            break
    if letters:
        shown = ", ".join(sorted(letters)[:8]) + (", ..." if len(letters) > 8 else "")
        sys.stderr.write(
            f"note: figure {figure.name}: no installed font has {shown}, so boxes stand there; on Debian `apt-get install "
            "fonts-noto-cjk` brings those of Chinese, Japanese and Korean, then write the report again\n"
        )
    return path


def _write(figure: FigureSpec, evidence: Evidence, table: Table | None, folder: Path) -> Path | None:
    from star.report.figures.style import as_pdf, as_png, close

    drawn = draw(figure, evidence, table)
    if drawn is None:
        return None
    path = folder / f"{figure.name}.png"
    write_bytes(path, as_png(drawn))
    write_bytes(path.with_suffix(".pdf"), as_pdf(drawn))
    close(drawn)
    return path
