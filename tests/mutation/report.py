"""docs/mutants.md from what mutmut found: a score for each file, and every mutant that no test noticed, with a judgement."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import yaml

SURVIVED, UNTESTED, PENDING = 0, 33, None
HEAD = """# Do the tests notice?

Made by `make mutants`. [mutmut](https://mutmut.readthedocs.io) breaks each function of the numerics in every way that it
knows: another operator, another number, an argument left out or None, a condition turned round. For each such mutant the
fast tests of the numerics run, and for the survivors of training the slow ones, of several processes; a mutant that no test
notices has survived. What is only said (messages, log lines) is left alone. `tests/mutation/judged.yaml` says of a survivor
why it changes no result; a survivor without such a word counts against the tests.
"""


@dataclass(frozen=True)
class Mutant:
    """One change of one function."""

    function: str
    was: str
    now: str

    @property
    def change(self) -> str:
        """`was -> now`, as patterns in judged.yaml match it."""
        return f"{self.was} -> {self.now}"


def write(mutants: Path, target: Path, judged: Path, by_hand: Path) -> list[str]:
    """Write the report and print its score; returns the names of mutants that were not tried, or survived without a judgement."""
    hand = json.loads(by_hand.read_text()) if by_hand.exists() else {"tried": 0, "survived": []}
    rules = [(rule["function"], re.compile(rule["change"]), rule["why"]) for rule in yaml.safe_load(judged.read_text())]
    lines, whole = [], Counter[str]()
    open_ones: list[Mutant] = []
    left: list[str] = []
    reasons: dict[str, list[Mutant]] = {}
    for meta in sorted(mutants.glob("star/**/*.py.meta")):
        codes = json.loads(meta.read_text())["exit_code_by_key"]
        found = Counter("killed" for code in codes.values() if code not in (SURVIVED, UNTESTED, PENDING))
        found["pending"] = sum(code is PENDING for code in codes.values())
        path = meta.relative_to(mutants).with_suffix("")
        left += [name for name, code in codes.items() if code is PENDING]
        for name, code in codes.items():
            if code not in (SURVIVED, UNTESTED):
                continue
            mutant = _mutant(mutants, path, name)
            why = next(
                (why for where, change, why in rules if _fits(where, mutant) and change.search(mutant.change)), None
            )
            found["open" if why is None else "no result"] += 1
            if why is not None:
                reasons.setdefault(why, []).append(mutant)
            else:
                open_ones.append(mutant)
                left.append(name)
        if codes:
            lines.append(f"| `{path}` | {_row(found)} |")
        whole += found
    text = [
        HEAD,
        f"Besides, {hand['tried']} programs were broken by hand (`tests/mutation/broken.yaml`); not noticed: "
        f"{', '.join(hand['survived']) or 'none'}.\n",
        "| file | mutants | noticed | survived, change no result | survived, open | score |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    text += [*lines, f"| **all** | {_row(whole)} |", ""]
    if whole["pending"]:
        text += [f"{whole['pending']} mutants were not tried: those above are a sample.", ""]
    text += ["## Open", "", *(_line(one) for one in open_ones)] if open_ones else []
    text += ["", "## Survivors that change no result", ""]
    for why, group in reasons.items():
        text += [f"{why}:", "", *(_line(one) for one in group), ""]
    target.write_text("\n".join(text).rstrip() + "\n")
    print(f"{target}: {_row(whole)}")
    return left


def _fits(where: str, mutant: Mutant) -> bool:
    return re.fullmatch(where.replace(".", r"\.").replace("*", ".*"), mutant.function) is not None


def _row(found: Counter[str]) -> str:
    tried = found["killed"] + found["open"] + found["no result"]
    counted = found["killed"] + found["open"]
    score = f"{100 * found['killed'] / counted:.1f}%" if counted else ""
    return f"{tried} | {found['killed']} | {found['no result']} | {found['open']} | {score}"


def _line(mutant: Mutant) -> str:
    return f"- `{mutant.function}`: `{mutant.was}` → `{mutant.now}`"


def _mutant(mutants: Path, path: Path, name: str) -> Mutant:
    from mutmut.mutation.diff_apply import get_diff_for_mutant

    before = Path.cwd()
    os.chdir(mutants.parent)
    try:
        diff = get_diff_for_mutant(name, path=path).splitlines()[2:]
    finally:
        os.chdir(before)
    was, now = (" ".join(line[1:].strip() for line in diff if line.startswith(sign)) for sign in "-+")
    function = re.sub(r"x_|xǁ", "", name.rsplit("__mutmut_", 1)[0]).replace("ǁ", ".")
    return Mutant(function, was.replace("`", "'"), now.replace("`", "'"))
