"""Numbers and times as people read them."""

from __future__ import annotations

import math
from collections.abc import Sequence


def duration(seconds: float | None) -> str:
    """A time in seconds as text, such as `4 s`, `12 min`, `3 h 20 min`, `5 days`; `?` for None, which is unknown."""
    if seconds is None:
        return "?"
    if seconds < 90:
        return f"{max(0.0, seconds):.0f} s"
    minutes = seconds / 60
    if minutes < 90:
        return f"{minutes:.0f} min"
    hours = minutes / 60
    if hours < 48:
        whole, rest = divmod(round(minutes), 60)
        return f"{whole} h {rest} min" if whole < 10 and rest else f"{hours:.0f} h"
    return f"{hours / 24:.1f} days" if hours < 480 else f"{hours / 24:,.0f} days"


def number(value: object) -> str:
    """A value as text: four significant digits, but whole numbers as they are, and a dash for None."""
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) and abs(value) >= 10**15:
        from decimal import Decimal  # floats end at 1e308

        return f"{Decimal(value):.3e}"
    if not math.isfinite(value):
        return str(float(value))
    if isinstance(value, int) or (value == int(value) and abs(value) < 1e6):
        return f"{int(value):,}"
    return f"{value:.4g}" if 1e-4 <= abs(value) < 1e5 else f"{value:.3e}"


def counted(count: int, noun: str) -> str:
    """A number and its noun: `1 job`, `12 jobs`; the plural is the noun with an s."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def meant(value: object, legal: Sequence[object], similar: float = 0.5) -> str:
    """` (did you mean X?)` if a legal value is at least so `similar`, from 0 to 1, else an empty text."""
    import difflib  # only a mistake needs it

    options = [str(option) for option in legal]
    close = [one for one in options if one.lower() == str(value).lower()]
    close = close or difflib.get_close_matches(str(value), options, n=1, cutoff=similar)
    return f" (did you mean {close[0]}?)" if close else ""


def shown(text: object) -> str:
    """A text or path that every terminal and file can hold, in one line: control characters and bytes that are no UTF-8 as \\xNN."""
    whole = str(text).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(f"\\x{ord(one):02x}" if ord(one) < 32 or 127 <= ord(one) < 160 else one for one in whole)
