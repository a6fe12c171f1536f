"""How figures look: readable in print, in grey, and by the colour-blind; the same bytes for the same numbers."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import seaborn

matplotlib.use("Agg")

from matplotlib import font_manager, pyplot  # noqa: E402
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter  # noqa: E402

WIDTH = 6.75
"""Inches: a page's text width."""
LEGEND_COLUMNS = 2
"""Of a legend below axes: two long labels fit beside each other."""
MARKERS = "osD^vPX*<>"
MARK = "#d55e00"
"""For what is pointed at (vermilion of the palette below)."""

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
"""Fonts for letters that the first one lacks, where they are installed."""
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
"""Parts of the names of their files."""


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
    """A figure with a grid of axes (always 2-d); sizes in inches."""
    return pyplot.subplots(rows, columns, figsize=(width, height), squeeze=False, **options)


def shown(label: str) -> str:
    """A row's label in a legend, which would leave out one with a leading underscore."""
    return f" {label}" if label.startswith("_") else label


def counted(counts: list[int]) -> str:
    """Such as `n = 3`, or `n = 1 to 3` where rows differ."""
    return f"n = {min(counts)}" + (f" to {max(counts)}" if max(counts) > min(counts) else "")


def colours(labels: list[str]) -> dict[str, Any]:
    """Row, as shown -> colour."""
    palette = seaborn.color_palette("colorblind", max(len(labels), 1))
    return dict(zip(map(shown, labels), palette, strict=False))


def legend_below(axis: Any) -> None:
    """Under the axes, where no curve can run through it."""
    axis.legend(title=None, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=LEGEND_COLUMNS)


def legend_height(count: int) -> float:
    """Inches of a legend of so many rows."""
    return 0.16 * -(-count // LEGEND_COLUMNS)


def logarithmic(axis: Any) -> None:
    """Ticks of an axis (`.xaxis`, `.yaxis`) on a logarithmic scale, as plain numbers: mathematics is not parsed here."""
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    axis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=6))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def shares() -> Any:
    """Colours of shares: even in lightness, the same to the colour-blind, light grey where nothing can be seen."""
    return matplotlib.colormaps["cividis"].with_extremes(bad="0.92")


def markers(labels: list[str]) -> dict[str, str]:
    """Row -> marker."""
    return {shown(label): MARKERS[i % len(MARKERS)] for i, label in enumerate(labels)}


def dashes(labels: list[str]) -> dict[str, tuple[float, ...] | str]:
    """Row -> dashes, so that lines differ in grey too."""
    kinds: list[tuple[float, ...] | str] = ["", (4, 1.5), (1, 1), (3, 1, 1, 1), (5, 1, 2, 1), (2, 1)]
    return {shown(label): kinds[i % len(kinds)] for i, label in enumerate(labels)}


def as_png(figure: Any) -> bytes:
    """200 dots per inch."""
    return _saved(figure, "png", {"Software": None})


def as_pdf(figure: Any) -> bytes:
    """Vectors; without the date."""
    return _saved(figure, "pdf", {"Creator": None, "Producer": None, "CreationDate": None})


def _saved(figure: Any, kind: str, metadata: dict[str, None]) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=200, metadata=metadata)
    figure.set_layout_engine("none")  # what the first one has laid out stays; doing it again takes as long as drawing
    return buffer.getvalue()


@contextmanager
def letters_without_font() -> Iterator[set[str]]:
    """Collects the letters that have become boxes, because no font here has them, in place of a warning for each."""
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
    """Look for fonts that were installed since matplotlib has listed them; whether there is one for letters that were missing."""
    for path in font_manager.findSystemFonts():
        if any(part in Path(path).name.lower() for part in CJK_FILES):
            font_manager.fontManager.addfont(path)
    before = matplotlib.rcParams["font.family"]
    matplotlib.rcParams["font.family"] = _families()
    return bool(matplotlib.rcParams["font.family"] != before)


def close(figure: Any) -> None:
    """Forget a figure."""
    pyplot.close(figure)
