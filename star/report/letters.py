"""Characters as pdflatex prints them without a package, and their printed width."""

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
"""Width in characters of a code such as `U+6F22`, printed for a character that pdflatex lacks."""


def sign(character: str) -> str:
    """The LaTeX of one character.

    Latin letters stay as they are; Greek ones become commands. Any other character becomes the file's own
    \\unicodeletter, by which pdflatex prints the code point, and engines with Unicode the character.
    """
    if character in SIGNS:
        return SIGNS[character]
    greek = _greek(character)
    if greek:
        return rf"$\{greek}$"
    return character if ord(character) < 0x180 else rf"\unicodeletter{{{ord(character):04X}}}{{{character}}}"


def printed(text: str) -> int:
    """Printed width of a text in characters; a code point counts as CODE characters."""
    return sum(1 if ord(c) < 0x180 or c in SIGNS or _greek(c) else CODE for c in text)


def _greek(character: str) -> str:
    name = unicodedata.name(character, "").split()
    if name[:3] != ["GREEK", "SMALL", "LETTER"] or len(name) != 4 or name[3] == "OMICRON":
        return ""
    return "lambda" if name[3] == "LAMDA" else name[3].lower()
