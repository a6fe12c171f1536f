"""Characters as pdflatex prints them without a package, and their printed width."""

from __future__ import annotations

import re
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
    "«": r"$\ll$",
    "»": r"$\gg$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "≈": r"$\approx$",
    "×": r"$\times$",
    "–": "--",
    "—": "---",
    "…": r"\dots{}",
    **{character: "\\" + character for character in "&%$#_{}"},
}
LATIN_LACKING = frozenset("ÐÞðþĄąĐđĘęĦħĮįĸĿŀŉŊŋŦŧŲųſ")
"""Latin letters below U+0180 that pdflatex has in no font of its own; all others it has."""
GREEK = frozenset(
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon phi chi psi omega".split()
)
"""The small letters that are commands of mathematics; omicron is none."""
LIGATURES = re.compile(r"-(?=-)|[?!](?=`)|'(?=')|`(?=`)|,(?=,)")
"""What TeX's fonts draw together with the sign behind it as another sign."""
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
    return character if _is_latin(character) else rf"\unicodeletter{{{ord(character):04X}}}{{{character}}}"


def printed(text: str) -> int:
    """Printed width of a text in characters; a code point counts as CODE characters."""
    return sum(1 if _is_latin(c) or c in SIGNS or _greek(c) else CODE for c in text)


def _is_latin(character: str) -> bool:
    return ord(character) < 0x180 and character not in LATIN_LACKING


def _greek(character: str) -> str:
    name = unicodedata.name(character, "").split()
    if name[:3] != ["GREEK", "SMALL", "LETTER"] or len(name) != 4:
        return ""
    found = "lambda" if name[3] == "LAMDA" else name[3].lower()
    return found if found in GREEK else ""
