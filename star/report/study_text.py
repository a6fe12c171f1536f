"""A search's report as Markdown and HTML."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from statistics import fmean

from optuna.trial import FrozenTrial, TrialState

from star.report import markup, render
from star.report.grid import Grid, Head, Line, Mark, main_grid
from star.report.study import StudyReport, Verdict
from star.search.best import DEFAULT, number_of, told
from star.search.choosing import sampler_name
from star.search.study import EARLY_HOURS, HOURS, IMPOSSIBLE, PROMOTED, WARM, WHY, counts
from star.words import counted


def summary(report: StudyReport, quoted: Callable[[str], str] = str) -> list[str]:
    """Sentences on how many trials there are, what they cost, and what ending some early saved.

    Args:
        quoted: escapes a title that stands in them.
    """
    spec, trials = report.search.spec, [trial for trial in report.trials if counts(trial)]
    promoted = {trial.user_attrs.get(PROMOTED) for trial in report.trials}
    states = Counter(TrialState.COMPLETE if trial.number in promoted else trial.state for trial in trials)
    parts = [f"{states[TrialState.COMPLETE]} complete", f"{states[TrialState.PRUNED]} ended early"]
    parts += [f"{states[TrialState.FAIL]} failed"] if states[TrialState.FAIL] else []
    parts += [f"{states[TrialState.RUNNING]} under way"] if states[TrialState.RUNNING] else []
    goals = " and ".join(f"{one.direction} {quoted(one.title or one.metric)}" for one in spec.objectives)
    pruner = spec.pruner
    how = f"sampler {sampler_name(report.search)}"
    if pruner.min_steps:
        training = report.search.default.training
        kind = {"halving": "successive halving", "hyperband": "Hyperband"}[pruner.name]
        how += f", {kind} from {pruner.min_steps} of {training.steps if training else 0} steps (the best 1 in {pruner.reduction} go on)"
    lines = [f"{counted(len(trials), 'trial')} ({', '.join(parts)}) to {goals}; {how}."]
    warm = sum(WARM in trial.user_attrs for trial in report.trials)
    if warm:
        lines.append(f"Begun with {warm} points of earlier experiments.")
    none = [trial for trial in report.trials if IMPOSSIBLE in trial.user_attrs]
    if none:
        why = str(none[0].user_attrs.get(WHY, "")).splitlines()[0]
        lines.append(f"{len(none)} points gave no legal run and are not counted; the first: {why}")
    return [*lines, *_cost(report.trials)]


def amount(hours: float) -> str:
    """A duration as text: in hours, or in minutes below two hours."""
    return f"{hours:.1f} hours" if hours >= 2 else f"{60 * hours:.1f} minutes"


def _cost(trials: Sequence[FrozenTrial]) -> list[str]:
    hours = {trial.number: trial.user_attrs.get(HOURS, 0.0) for trial in trials}
    early = {trial.number: trial.user_attrs.get(EARLY_HOURS, 0.0) for trial in trials}
    spent = sum(hours.values())
    promoted = {trial.user_attrs.get(PROMOTED) for trial in trials}
    pruned = [trial.number for trial in trials if trial.state == TrialState.PRUNED and trial.number not in promoted]
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE and PROMOTED not in trial.user_attrs]
    own = [hours[trial.number] - early[trial.number] for trial in complete]
    whole = [one for one in own if one > 0]
    if not spent:
        return []
    lines = [f"The trials took {amount(spent)} of GPUs, or of CPU slots where there was none."]
    if pruned and whole:
        others = sum(hours[number] - early[number] for number in hours if number not in pruned)
        without = others + len(pruned) * fmean(whole)
        saved = without - spent
        word = "saved" if saved >= 0 else "cost"
        lines.append(
            f"To the end, and with no comparisons before it, all would have taken about {amount(without)}: ending {len(pruned)} early "
            f"{word} {amount(abs(saved))} ({abs(saved) / without:.0%})."
        )
    return lines


def outcome(report: StudyReport, quoted: Callable[[str], str] = str) -> str:
    """Text that says whether a trial beats the default, or why that is not known. `quoted` escapes a title that stands in it."""
    if not report.search.spec.confirm:
        return "No trial is repeated on fresh seeds (`confirm`): the best of many is best partly by chance, so there is no winner."
    if not report.verdicts:
        is_retried = any(number_of(trial) == DEFAULT for trial in report.study.complete())
        if report.trials and report.trials[DEFAULT].state == TrialState.FAIL and not is_retried:
            return "The default itself failed: there is nothing to compare the others with."
        if report.confirmed is not None and len(report.confirmed.experiment.variants) == 1:
            return "**No other trial is left to repeat beside the default: it is not beaten.**"
        return "The repetition on fresh seeds is not complete yet: the best of many is best partly by chance, so there is no winner."
    held = [verdict for verdict in report.verdicts if verdict.held]
    best, objective = (held or report.verdicts)[0], report.search.spec.objectives[0]
    shown, point = f".{objective.digits}f", report.trials[int(best.label.split()[1])].params
    lead = (
        f"{best.label} ({told(dict(point))}) has {best.mean:{shown}}, the default {best.default:{shown}} "
        f"({quoted(objective.title or objective.metric)}, means of seeds {', '.join(map(str, report.search.spec.confirm.seeds))}): "
        f"better by {interval(best, shown)}"
    )
    waits = report.repeated - len(report.verdicts)
    rest = f" {counted(waits, 'repeated trial')} more would be compared: seeds are missing." if waits else ""
    if held:
        return f"**{lead}. It beats the default beyond the noise of seeds.{rest}**"
    return f"**{lead}. That is within the noise of seeds: the default is not beaten.{rest}**"


def interval(verdict: Verdict, shown: str) -> str:
    """A verdict's difference with its bounds as text; `shown` is a format such as `.2f`."""
    held = verdict.difference
    if held.low is None:
        return f"{held.estimate:{shown}} (no interval)"
    return f"{held.estimate:{shown}} ({100 * held.level:.3g}% interval {held.low:{shown}} to {held.high:{shown}})"


def note_comparisons(report: StudyReport) -> None:
    """Add the comparisons to the notes of the table of repeated trials, from which LaTeX gets them too."""
    if report.verdicts and report.confirmed is not None and report.confirmed.table is not None:
        note = comparisons(report)
        if note not in report.confirmed.table.notes:
            report.confirmed.table.notes.append(note)


def comparisons(report: StudyReport) -> str:
    """All repeated trials against the default, in one sentence."""
    shown = f".{report.search.spec.objectives[0].digits}f"
    each = "; ".join(f"{one.label} {interval(one, shown)}" for one in report.verdicts)
    return f"Better than the default by (Welch intervals, 95% over all {report.repeated} comparisons together): {each}."


def markdown(report: StudyReport, level: int = 1, folder: str = "") -> list[str]:
    """The report as lines of GitHub Markdown.

    Args:
        level: heading level of its title.
        folder: folder of its pictures, relative to the Markdown file, with a slash at the end.
    """
    below = "#" * (level + 1)
    lines = [f"{'#' * level} {markup.plain(report.search.spec.title)}", "", *summary(report, markup.plain), ""]
    lines += [outcome(report, markup.plain), ""]
    lines += [f"The trials of these tables as an experiment: [best.yaml]({folder}best.yaml)."]
    note_comparisons(report)
    for part in filter(None, (report.confirmed, report.top)):
        assert part.table is not None
        lines += ["", f"{below} {part.experiment.spec.title}", "", *markup.markdown(main_grid(part.table))]
        lines += ["", *(f"{markup.plain(note)}  " for note in part.table.notes)]
    if report.importances:
        lines += ["", f"{below} What mattered", "", IMPORTANCE, "", *markup.markdown(importance_grid(report))]
    for name, picture in report.pictures.items():
        lines += ["", f"{below} {TITLES[name]}", "", f"![{TITLES[name]}]({folder}{picture.name})"]
    return lines


def html(report: StudyReport, picture: Callable[[Path], str], anchor: str) -> list[str]:
    """The report as lines of HTML, which begin at `anchor`; `picture` turns the path of a PNG into an image source."""
    plain = [*summary(report), outcome(report).strip("*")]
    lines = [
        f'<h2 id="{anchor}">{escape(report.search.spec.title)}</h2>',
        *(f"<p>{escape(line)}</p>" for line in plain),
    ]
    for part in filter(None, (report.confirmed, report.top)):
        assert part.table is not None
        lines += [f"<h3>{escape(part.experiment.spec.title)}</h3>", *render.html_parts(part.table, part.link)]
    if report.importances:
        lines += [
            "<h3>What mattered</h3>",
            f"<p>{escape(IMPORTANCE)}</p>",
            *markup.html(importance_grid(report), lambda runs: ""),
        ]
    for name, path in report.pictures.items():
        caption = f"<figcaption>{TITLES[name]}</figcaption>"
        lines.append(f'<figure><img alt="{TITLES[name]}" src="{picture(path)}">{caption}</figure>')
    return lines


IMPORTANCE = (
    "Share of each parameter in the variance of the first objective (fANOVA over the trials' points), with its standard deviation "
    "over bootstrapped sets of trials: a share within its deviation of another's is not larger."
)
TITLES = {
    "history": "Trials in their order",
    "importances": "Importance of the parameters",
    "slices": "The objective by each parameter",
    "contours": "The objective by pairs of parameters",
    "pareto": "Objectives against each other",
}


def importance_grid(report: StudyReport) -> Grid:
    """Importances as a grid: a line per parameter, a column per place where the objective was measured."""
    found = report.importances
    grid = Grid([Head("parameter", numeric=False), *(Head(where) for where in found)])
    for name in report.search.spec.space:
        shares = [next((one for one in ones if one.name == name), None) for ones in found.values()]
        cells = [Mark(f"{one.mean:.2f}", after=f" ± {one.deviation:.2f}") if one else Mark("-") for one in shares]
        grid.lines.append(Line([Mark(name), *cells]))
    return grid
