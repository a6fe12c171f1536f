"""Letters as pdflatex prints them without a package, and how wide that is."""

from __future__ import annotations

import unicodedata

SIGNS = {
    "\\": r"\textbackslash{}",
    "✓": r"$\surd$",
    "±": r"$\pm$",
    "“": "``",
    "”": "''",
    "†": r"$\dagger$",
    "·": r"$\cdot$",
    "−": "$-$",
    "→": r"$\rightarrow$",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "|": r"\textbar{}",
    '"': "''",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "≈": r"$\approx$",
    "×": r"$\times$",
    "–": "--",
    "—": "---",
    "…": r"\dots{}",
    **{character: "\\" + character for character in "&%$#_{}"},
}
CODE = 6
"""Letters of `U+6F22`, which stands for a sign that there is none of."""


def sign(character: str) -> str:
    """What to write for a character. Latin and Greek letters are there; of any other pdflatex prints the code, and engines with
    Unicode the letter, by the file's own \\unicodeletter."""
    if character in SIGNS:
        return SIGNS[character]
    greek = _greek(character)
    if greek:
        return rf"$\{greek}$"
    return character if ord(character) < 0x180 else rf"\unicodeletter{{{ord(character):04X}}}{{{character}}}"


def printed(text: str) -> int:
    """Letters that a text takes on paper."""
    return sum(1 if ord(c) < 0x180 or c in SIGNS or _greek(c) else CODE for c in text)


def _greek(character: str) -> str:
    name = unicodedata.name(character, "").split()
    if name[:3] != ["GREEK", "SMALL", "LETTER"] or len(name) != 4 or name[3] == "OMICRON":
        return ""
    return "lambda" if name[3] == "LAMDA" else name[3].lower()
