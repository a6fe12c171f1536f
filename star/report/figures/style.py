"""Style of figures: readable in print, in greyscale and by the colour-blind; the same numbers give the same bytes."""

from __future__ import annotations

import io
import math
import re
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unicodedata import east_asian_width

import matplotlib
import seaborn

matplotlib.use("Agg")

from matplotlib import font_manager, pyplot
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

WIDTH = 6.75
"""Text width of a page in inches."""
LABEL = 44
"""Most characters in a line of a row's label: two columns of them fit under a figure."""
LEGEND_COLUMNS = 2
"""Most columns of a legend below the axes: two long labels fit beside each other in the text width."""
LETTER = 0.057
"""Width in inches of a letter of 7 points, on average; a wide one of CJK takes two."""
HANDLE = 0.5
"""Width in inches of what a legend has beside a label: its line, and space."""
MARKERS = "osD^vPX*<>"
MARK = "#d55e00"
"""Colour of highlights (vermilion of the palette below)."""

CJK = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK KR", "Noto Sans SC", "Noto Sans JP", "Noto Sans KR"),
    *(
        "Source Han Sans SC",
        "WenQuanYi Zen Hei",
        "WenQuanYi Micro Hei",
        "Droid Sans Fallback",
        "IPAexGothic",
        "NanumGothic",
    ),
    *(
        "PingFang SC",
        "Hiragino Sans",
        "Apple SD Gothic Neo",
        "Microsoft YaHei",
        "Yu Gothic",
        "Malgun Gothic",
        "Arial Unicode MS",
    ),
)
"""Fonts for characters that the first font lacks, used if they are installed."""
CJK_FILES = (
    "cjk",
    "notosanssc",
    "notosansjp",
    "notosanskr",
    "sourcehan",
    "wqy",
    "droidsansfallback",
    "ipaex",
    "nanumgothic",
)
"""Parts of the file names of the CJK fonts."""


def _families() -> list[str]:
    known = set(font_manager.get_font_names())
    return ["sans-serif", *(name for name in CJK if name in known)]


seaborn.set_theme(
    context="paper",
    style="ticks",
    palette="colorblind",
    rc={
        "pdf.fonttype": 42,  # TrueType, embedded: text stays text
        "font.family": _families(),
        "font.size": 8,
        "axes.titlesize": 8,
        "axes.labelsize": 8,
        "legend.fontsize": 7,
        "xtick.labelsize": 7,
        "ytick.labelsize": 7,
        "axes.grid": True,
        "grid.alpha": 0.35,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
        "figure.constrained_layout.use": True,
        "image.interpolation": "nearest",
        "text.parse_math": False,  # a dollar in a row's label is a dollar
    },
)


def new(rows: int, columns: int, height: float, width: float = WIDTH, **options: Any) -> tuple[Any, Any]:
    """A new figure and its 2-d array of axes; `height` and `width` are in inches."""
    return pyplot.subplots(rows, columns, figsize=(width, height), squeeze=False, **options)


def shown(label: str, width: int = LABEL) -> str:
    """A row's label for legends, ticks and titles, in lines of at most `width` characters; labels that differ stay different.

    A space goes before a leading underscore, or matplotlib would leave the label out.
    """
    return (" " if label.startswith("_") else "") + "\n".join(textwrap.wrap(label, max(width, 8)))


def counted(counts: list[int]) -> str:
    """Numbers of seeds as text, such as `n = 3`, or `n = 1 to 3` if rows differ."""
    return f"n = {min(counts)}" + (f" to {max(counts)}" if max(counts) > min(counts) else "")


def colours(labels: list[str]) -> dict[str, Any]:
    """The colour of each row, by its label as `shown` returns it."""
    palette = seaborn.color_palette("colorblind", max(len(labels), 1))
    return dict(zip(map(shown, labels), palette, strict=False))


def text_width(text: str) -> float:
    """Width in inches of the widest line of a text of 7 points."""
    return LETTER * max(sum(2 if east_asian_width(one) in "WF" else 1 for one in line) for line in text.split("\n"))


def legend_width(labels: Sequence[str], columns: int = 1) -> float:
    """Width in inches of a legend of rows with these labels, filled column by column."""
    count = -(-len(labels) // columns)
    parts = [labels[first : first + count] for first in range(0, len(labels), count or 1)]
    return sum(HANDLE + max(text_width(shown(label)) for label in part) for part in parts)


def legend_columns(labels: Sequence[str], width: float) -> int:
    """How many columns of a legend fit in `width` inches; 1 if none does."""
    return next((n for n in range(LEGEND_COLUMNS, 1, -1) if legend_width(labels, n) <= width), 1)


def legend_below(axis: Any, columns: int = LEGEND_COLUMNS) -> None:
    """Place the legend under the axes, where it covers no curve."""
    axis.legend(title=None, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=columns)


def legend_lines(labels: Sequence[str], columns: int) -> list[int]:
    """Lines of text in each row of a legend."""
    lines = [shown(label).count("\n") + 1 for label in labels]
    count = -(-len(labels) // columns)
    return [max(lines[i::count]) for i in range(count)]


def legend_height(labels: Sequence[str], columns: int) -> float:
    """Height in inches of a legend of rows with these labels."""
    lines = legend_lines(labels, columns)
    return 0.18 * len(lines) + 0.11 * (sum(lines) - len(lines))


def set_ticks(axis: Any, values: Sequence[float], texts: Sequence[str], inches: float) -> None:
    """Ticks at all values of an x-axis of about this length; a text that would lie on the one after it is left out."""
    place = math.log if axis.get_xscale() == "log" else float
    low, high = (place(end) for end in (min(values), max(values)))
    kept, free = [""] * len(values), math.inf
    for i in sorted(range(len(values)), key=lambda i: -values[i]):
        middle = inches * ((place(values[i]) - low) / (high - low) if high > low else 0.5)
        half = (text_width(texts[i]) + LETTER) / 2
        if middle + half <= free:
            kept[i], free = texts[i], middle - half
    axis.set_xticks(values, kept)


def logarithmic(axis: Any) -> None:
    """Make an axis (`.xaxis`, `.yaxis`) logarithmic, with plain numbers at its ticks: math text is not parsed here."""
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    axis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=6))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def shares() -> Any:
    """Colour map of shares: uniform in lightness, the same to the colour-blind, light grey for NaN."""
    return matplotlib.colormaps["cividis"].with_extremes(bad="0.92")


def markers(labels: list[str]) -> dict[str, str]:
    """The marker of each row, by its label as `shown` returns it."""
    return {shown(label): MARKERS[i % len(MARKERS)] for i, label in enumerate(labels)}


def dashes(labels: list[str]) -> dict[str, tuple[float, ...] | str]:
    """The dashes of each row, by its label as `shown` returns it, so that lines differ in greyscale too."""
    kinds: list[tuple[float, ...] | str] = ["", (4, 1.5), (1, 1), (3, 1, 1, 1), (5, 1, 2, 1), (2, 1)]
    return {shown(label): kinds[i % len(kinds)] for i, label in enumerate(labels)}


def as_png(figure: Any) -> bytes:
    """The figure as PNG, 200 dots per inch."""
    return _saved(figure, "png", {"Software": None})


def as_pdf(figure: Any) -> bytes:
    """The figure as PDF with vector graphics, without creator, producer and date."""
    return _saved(figure, "pdf", {"Creator": None, "Producer": None, "CreationDate": None})


def _saved(figure: Any, kind: str, metadata: dict[str, None]) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=200, metadata=metadata)
    figure.set_layout_engine("none")  # keep the layout: computing it again takes as long as drawing
    return buffer.getvalue()


@contextmanager
def letters_without_font() -> Iterator[set[str]]:
    """Collect the characters that become boxes because no font has them; the set is filled when the block ends."""
    letters: set[str] = set()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield letters
    for warning in caught:
        found = re.match(r"Glyph (\d+) ", str(warning.message))
        if found:
            letters.add(chr(int(found[1])))
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def find_fonts() -> bool:
    """Register CJK fonts installed since matplotlib listed its fonts; returns whether the font families changed."""
    for path in font_manager.findSystemFonts():
        if any(part in Path(path).name.lower() for part in CJK_FILES):
            font_manager.fontManager.addfont(path)
    before = matplotlib.rcParams["font.family"]
    matplotlib.rcParams["font.family"] = _families()
    return bool(matplotlib.rcParams["font.family"] != before)


def close(figure: Any) -> None:
    """Close a figure, which pyplot would otherwise keep."""
    pyplot.close(figure)
