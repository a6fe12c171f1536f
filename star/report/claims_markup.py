"""Verdicts on claims as Markdown, HTML and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from html import escape
from typing import Any

from star.report import markup
from star.report.claims import ClaimResult
from star.report.contrasts import UNDECIDED, Contrast
from star.report.stats import LEVEL
from star.report.table import Agreement

WORST_SHOWN = 6
"""Most contrasts of one claim that a report shows; the JSON has all."""


def markdown(judgements: list[ClaimResult]) -> list[str]:
    """Verdicts as the lines of a Markdown table: claim, verdict, n, and what the verdict rests on."""
    lines = ["| claim | verdict | n | rests on |", "|---|---|---:|---|"]
    for one in judgements:
        rests = "<br>".join(map(markup.plain, told(one)))
        lines.append(f"| {markup.plain(one.text)} | **{one.verdict}** | {one.counts} | {rests} |")
    return lines


def html(judgements: list[ClaimResult]) -> list[str]:
    """Verdicts as the lines of an HTML table: claim, verdict, n, and what the verdict rests on."""
    lines = [
        "<table>",
        '<thead><tr><th>claim</th><th>verdict</th><th class="n">n</th><th>rests on</th></tr></thead>',
        "<tbody>",
    ]
    for one in judgements:
        rests = "<br>".join(map(escape, told(one)))
        lines.append(
            f'<tr><td class="w">{escape(one.text)}</td><td class="{one.verdict}"><b>{one.verdict}</b></td>'
            f'<td class="n">{one.counts}</td><td class="w"><small>{rests}</small></td></tr>'
        )
    return [*lines, "</tbody>", "</table>"]


def told(judgement: ClaimResult) -> list[str]:
    """What a verdict rests on, a line for each contrast shown, and what would decide the claim."""
    return [*map(_part, shown(judgement)), *_rest(judgement)]


def plain(judgement: ClaimResult) -> list[str]:
    """A verdict as lines for a terminal, with what it rests on."""
    lines = [f"{judgement.verdict:<12} {judgement.claim.id}: {judgement.text} (n = {judgement.counts})"]
    lines += [f"{'':<13}{_part(part)}" for part in shown(judgement)]
    return lines + [f"{'':<13}{line}" for line in (look_text(judgement), judgement.note) if line]


def rejudged_text(changes: Sequence[str]) -> str:
    """One sentence on what was changed after there were results; empty if nothing was."""
    return f"Changed after there were results: {'; '.join(changes)}." if changes else ""


def data(judgements: list[ClaimResult], agreement: list[Agreement], rejudged: Sequence[str] = ()) -> dict[str, Any]:
    """All verdicts, contrasts, later changes and rank agreements as a value for JSON."""
    return {
        "claims": [
            {
                "id": one.claim.id,
                "text": one.text,
                "verdict": one.verdict,
                "n": one.count,
                "note": one.note or None,
                "look": asdict(one.look) if one.look else None,
                "parts": [_data(part) for part in one.parts],
            }
            for one in judgements
        ],
        "changed_after_results": list(rejudged),
        "rank_agreement": [{"column": a.title, "kendall_tau": a.tau, "rows": a.rows} for a in agreement],
    }


def agreement_text(agreement: list[Agreement]) -> str:
    """One sentence on the rank agreement with the published rows; empty if there is none to report."""
    if not agreement:
        return ""
    parts = ", ".join(f"{a.title} {a.tau:+.2f} ({a.rows} rows)" for a in agreement)
    return f"Rank agreement with the published rows (Kendall's tau: 1 the same order, -1 the opposite): {parts}."


def shown(judgement: ClaimResult) -> list[Contrast]:
    """Up to WORST_SHOWN contrasts: those that decide the verdict first, then those closest to failing."""

    def order(part: Contrast) -> tuple[bool, bool, float]:
        found = part.found
        distance = 0.0 if found is None else (found.estimate - part.bound) / _width(part)
        return part.verdict != judgement.verdict, found is None, distance

    wanted = [part for part in judgement.parts if part.decides or part.verdict == judgement.verdict != UNDECIDED]
    return sorted(wanted or judgement.parts, key=order)[:WORST_SHOWN]


def _width(part: Contrast) -> float:
    found = part.found
    if found is None or found.low is None or found.high is None:
        return 1.0
    return max(found.high - found.low, 1e-12)


def _rest(judgement: ClaimResult) -> list[str]:
    left = len(judgement.parts) - len(shown(judgement))
    more = [f"and {left} more"] if left > 0 else []
    return [*more, *filter(None, [look_text(judgement), judgement.note])]


def look_text(judgement: ClaimResult) -> str:
    """At which of the planned looks a claim was decided, or how far it is; empty if seeds are fixed."""
    look = judgement.look
    if look is None:
        return ""
    if not look.number:
        return f"not looked at yet: the first of {look.of} looks wants {look.seeds} seeds of each row"
    return f"look {look.number} of {look.of}, {look.seeds} seeds"


def _part(part: Contrast) -> str:
    found = part.change
    name = (part.metric.partition("/")[2].removeprefix("{extractor}/") or part.metric).replace("_", " ")
    if found is None:
        why = f"missing {'; '.join(part.missing)}" if part.missing else "not judged yet"
        return f"{name}: {part.text}: {why}"
    text = f"{name}: {part.text}: {number(found.estimate)}"
    if found.low is not None and found.high is not None:
        text += f" [{number(found.low)}, {number(found.high)}]"
        text += f" at {found.level * 100:.1f}%" if found.level != LEVEL else ""
    effect = "" if part.effect is None else f", g = {part.effect:+.1f}"
    effect += "" if part.chance is None else f", P = {part.chance:.2f}"
    other = part.judge.told if part.judge else ""
    return f"{text}{effect}, {part.verdict}{f' ({other})' if other else ''}"


def number(value: float) -> str:
    """A number with its sign and three significant digits; from 1000 on, rounded to an integer."""
    return f"{value:+.3g}" if abs(value) < 999.5 else f"{value:+.0f}"


def _data(part: Contrast) -> dict[str, Any]:
    found = part.change
    return {
        "text": part.text,
        "metric": part.metric,
        "verdict": part.verdict,
        "estimate": found.estimate if found else None,
        "interval": [found.low, found.high] if found and found.low is not None else None,
        "bound": part.bound * part.sign + 0.0,
        "method": part.judge.method if part.judge else None,
        "method_instead": part.judge.told or None if part.judge else None,
        "hedges_g": part.effect,
        "p_larger": part.chance,
        "n": part.count,
        "missing": part.missing,
        "seeds_to_decide": part.seeds,
        "seeds_by_method": part.seeds_by or None,
        "must_hold": part.decides,
    }
