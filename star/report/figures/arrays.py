"""Figures of arrays that stages attach to a tracked run: attention maps, codes of shifted views, sample grids."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from star.report.evidence import Evidence
from star.report.figures import style
from star.spec.reporting import AttentionFigure, CodesFigure, SamplesFigure

Arrays = dict[str, NDArray[Any]]


def _arrays(content: bytes) -> Arrays:
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _bare(axis: Any, title: str = "") -> None:
    axis.set(xticks=[], yticks=[])
    axis.grid(False)
    for spine in axis.spines.values():
        spine.set_visible(False)
    axis.set_title(title, fontsize=7, pad=2)


def _show(axis: Any, image: NDArray[Any]) -> None:
    axis.imshow(image.squeeze(), cmap="gray" if image.squeeze().ndim == 2 else None, vmin=0, vmax=255)


def draw_attention(figure: AttentionFigure, evidence: Evidence) -> Any | None:
    """Draw attention maps, averaged over heads, of one input position each; None while none is tracked.

    The maps of a column share one colour scale.
    """
    found: dict[str, Arrays] = {}
    for label in evidence.shown_rows(figure):
        content = evidence.drawn(label, figure.kind)
        if content is not None:
            found[label] = _arrays(content)
    return _attention(figure, found) if found else None


def attention_of(content: bytes) -> Any:
    """Draw one model's attention by layer; `content` holds the bytes of its attention.npz."""
    figure = AttentionFigure(name="attention", title="Attention by layer", kind="attention")
    return _attention(figure, {"": _arrays(content)})


def _attention(figure: AttentionFigure, found: dict[str, Arrays]) -> Any:
    first = next(iter(found.values()))
    # models of another depth or with other positions do not fit the columns, and are left out
    found = {label: arrays for label, arrays in found.items() if _layout(arrays) == _layout(first)}
    cases, titles = _cases(figure, first)
    images = list(range(min(figure.images, len(first["images"])))) if figure.vary != "image" else [None]
    lines = [(image, label) for image in images for label in found]
    count = len(cases) + (figure.vary != "image")
    side = style.WIDTH / (count + 0.6)
    heads = 1 if figure.vary == "image" else 0
    drawing, axes = style.new(len(lines) + heads, count, (side + 0.16) * (len(lines) + heads) + 0.35)
    for column, case in enumerate(cases):
        picked = [(case[0] if image is None else image, *case[1:]) for image, _ in lines]
        maps = [_map(found[label], *pick) for pick, (_, label) in zip(picked, lines, strict=True)]
        top = max(float(np.nanmax(map_)) for map_, _, _ in maps)
        for line, ((map_, own, condition), (_, _label)) in enumerate(zip(maps, lines, strict=True)):
            axis = axes[line + heads, column + count - len(cases)]
            axis.imshow(map_, cmap=style.shares(), vmin=0, vmax=top)
            if own is not None:
                axis.add_patch(
                    Rectangle((own[1] - 0.5, own[0] - 0.5), 1, 1, fill=False, edgecolor=style.MARK, linewidth=1.2)
                )
            title = titles[column] + "\n" if line == 0 and not heads else ""
            _bare(axis, f"{title}cond. {condition:.0%}")
    for line, (image, label) in enumerate(lines):
        axis = axes[line + heads, 0]
        if image is not None:
            _show(axis, first["images"][image])
            _bare(axis)
        axis.set_ylabel(style.shown(label, int(side * 15)), fontsize=7)
    if heads:
        for column, case in enumerate(cases):
            _show(axes[0, column], first["images"][case[0]])
            _bare(axes[0, column])
        axes[0, 0].set_ylabel("image", fontsize=7)
    drawing.suptitle(_told(figure, first), fontsize=8)
    return drawing


def _layout(arrays: Arrays) -> tuple[object, ...]:
    images, layers, _, positions, length = arrays["maps"].shape
    return images, layers, positions, length, tuple(arrays["positions"])


def _cases(figure: AttentionFigure, arrays: Arrays) -> tuple[list[tuple[int, int, int]], list[str]]:
    """The 0-based (image, layer, position) of each column, and the columns' titles."""
    images, layers, _, positions, _ = arrays["maps"].shape
    layer = min(figure.layer or layers, layers) - 1
    position = min(figure.position or positions // 2 + 1, positions) - 1
    if figure.vary == "layer":
        return [(0, i, position) for i in range(layers)], [f"layer {i + 1}" for i in range(layers)]
    if figure.vary == "position":
        return [(0, layer, i) for i in range(positions)], [f"pos. {p}" for p in arrays["positions"]]
    shown = min(figure.images, images)
    return [(i, layer, position) for i in range(shown)], [""] * shown


def _told(figure: AttentionFigure, arrays: Arrays) -> str:
    layers, positions = arrays["maps"].shape[1], arrays["positions"]
    layer = min(figure.layer or layers, layers)
    position = positions[min(figure.position or len(positions) // 2 + 1, len(positions)) - 1]
    fixed = {
        "layer": f"position {position}",
        "position": f"layer {layer}",
        "image": f"layer {layer}, position {position}",
    }
    return f"{figure.title} ({fixed[figure.vary]}; square: current code; cond.: share on the condition)"


def _map(arrays: Arrays, image: int, layer: int, position: int) -> tuple[NDArray[Any], tuple[int, int] | None, float]:
    """Attention over (grid, grid) cells, NaN if not seen; the current code's cell or None; the condition's share."""
    weights = arrays["maps"][image, layer, :, position].astype(np.float64).mean(0)  # (T,)
    length, current = len(weights), int(arrays["positions"][position]) - 1  # input `current` is code number `current`
    grid = round(length**0.5)
    cells = np.full(length, np.nan)
    cells[:current] = weights[1 : current + 1]
    own = divmod(current - 1, grid) if current else None
    if not current:
        cells[0] = 0.0
    return cells.reshape(grid, grid), own, float(weights[0])


def draw_codes(figure: CodesFigure, evidence: Evidence) -> Any | None:
    """Draw each image's view above its shifted view, with their codes; changed codes are framed and bold.

    Uses the first row that has this shift; None without any.
    """
    for label in evidence.shown_rows(figure):
        content = evidence.drawn(label, figure.kind)
        if content is None:
            continue
        arrays = _arrays(content)
        if f"images_right_{figure.shift}" in arrays:
            return _codes(figure, arrays)
    return None


def _codes(figure: CodesFigure, arrays: Arrays) -> Any:
    moved, changed = f"right_{figure.shift}", arrays[f"changed_right_{figure.shift}"]
    count = min(figure.images, len(arrays["images"]))
    drawing, axes = style.new(2, count, 2 * style.WIDTH / count + 0.4)
    skip = arrays["codes"].shape[2] - changed.shape[2]  # cells that only the first view shows
    for i in range(count):
        for line, name, left in ((0, "", skip), (1, f"_{moved}", 0)):
            axis, codes = axes[line, i], arrays[f"codes{name}"][i]
            _show(axis, arrays[f"images{name}"][i] // 2)  # darkened, so that white numbers are readable
            side = arrays["images"].shape[1] / codes.shape[0]
            for (row, column), code in np.ndenumerate(codes):
                at = column - left
                differs = 0 <= at < changed.shape[2] and row < changed.shape[1] and bool(changed[i, row, at])
                _code(axis, row, column, side, int(code), differs)
            _bare(axis, f"{changed[i].mean():.0%} of the codes change" if line else "")
    axes[0, 0].set_ylabel("view", fontsize=7)
    axes[1, 0].set_ylabel(f"shifted by {figure.shift} px", fontsize=7)
    drawing.suptitle(f"{figure.title} (framed: changed)", fontsize=8)
    return drawing


def _code(axis: Any, row: int, column: int, side: float, code: int, differs: bool) -> None:
    if differs:
        place = (column * side - 0.5 + 0.15, row * side - 0.5 + 0.15)
        axis.add_patch(Rectangle(place, side - 0.3, side - 0.3, fill=False, edgecolor=style.MARK, linewidth=1.0))
    if side * axis.figure.get_figwidth() >= 3:
        middle = ((column + 0.5) * side - 0.5, (row + 0.5) * side - 0.5)
        axis.text(
            *middle,
            str(code),
            ha="center",
            va="center",
            fontsize=4.5,
            color="white",
            weight="bold" if differs else "normal",
            in_layout=False,  # it lies inside the axes, and measuring each text costs as much as drawing it
        )


def draw_samples(figure: SamplesFigure, evidence: Evidence) -> Any | None:
    """Draw the sample grid of each row, from its first seed that has one; None without any."""
    from PIL import Image

    found = {label: evidence.drawn(label, figure.kind) for label in evidence.shown_rows(figure)}
    shown = {label: np.asarray(Image.open(io.BytesIO(content))) for label, content in found.items() if content}
    if not shown:
        return None
    columns = min(len(shown), 3)
    lines = -(-len(shown) // columns)
    height, width = next(iter(shown.values())).shape[:2]
    each = style.WIDTH / max(columns, 2)
    titles = {label: style.shown(label, int(each * 15)) for label in shown}
    head = 0.2 + 0.13 * max(title.count("\n") for title in titles.values())
    drawing, axes = style.new(lines, columns, lines * (each * height / width + head), each * columns)
    for axis in axes.flat:
        axis.set_visible(False)
    for axis, (label, image) in zip(axes.flat, shown.items(), strict=False):
        axis.set_visible(True)
        _show(axis, image)
        _bare(axis, titles[label])
    return drawing
