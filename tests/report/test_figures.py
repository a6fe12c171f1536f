"""Figures from stored numbers: what they show, the same bytes each time, fonts inside, and nothing from nothing."""

from __future__ import annotations

import io
import re
import zlib
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from PIL import Image

from star.report import curves, figures
from star.report.figures import style
from star.report.figures.parallel import write_together
from star.report.figures.style import as_pdf, as_png, close, markers
from star.report.table import build_table
from tests.report.stored import FD, STUDY, TABLE, Study

FIGURES = """figures:
  - {name: probe, kind: curves, title: Probe, metric: probe/accuracy_by_position, scale: 100, published: figure4,
     series: {plain: baseline_50e}}
  - {name: ablation, kind: ablation, title: By ratio, x: selfguided.mask_ratio, rows: ["a & b_1", "c|d"]}
  - {name: layers, kind: attention, title: Layers, vary: layer, images: 2}
  - {name: positions, kind: attention, title: Positions, vary: position, layer: 1}
  - {name: images, kind: attention, title: Images, vary: image, images: 2}
  - {name: codes, kind: codes, title: Codes, shift: 1, images: 2}
  - {name: samples, kind: samples, title: Samples}
"""
NAMES = ["probe", "ablation", "layers", "positions", "images", "codes", "samples"]


def packed(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def attention_maps() -> bytes:
    rng = np.random.default_rng(0)
    maps = rng.dirichlet(np.ones(49), size=(2, 2, 2, 3))  # 2 images, 2 layers, 2 heads, 3 positions
    images = rng.integers(0, 255, (2, 28, 28, 1)).astype(np.uint8)
    return packed(maps=maps.astype(np.float16), positions=[1, 24, 49], images=images)


def shifted_views() -> bytes:
    rng = np.random.default_rng(0)
    codes, others = rng.integers(0, 32, (2, 2, 7, 7))
    images = rng.integers(0, 255, (2, 28, 28, 1)).astype(np.uint8)
    return packed(
        images=images, codes=codes, images_right_1=images, codes_right_1=others, changed_right_1=codes != others
    )


@pytest.fixture
def study(tmp_path: Path) -> Study:
    made = Study(tmp_path, STUDY + TABLE + FIGURES)
    for i, label in enumerate(("plain", "a & b_1", "c|d")):
        made.put(label, FD, 30.0 - i, 31.0 - i, 32.0 - i)
        made.put(label, "probe/accuracy", 0.7, 0.71, 0.72)
        made.put_curve(label, "probe/accuracy_by_position", {12: 0.5, 49: 0.7}, {12: 0.6, 49: 0.8})
    for label in ("plain", "a & b_1"):
        made.put_file(label, "attention/attention.npz", attention_maps())
        picture = io.BytesIO()
        Image.fromarray(np.full((28, 56), 99, dtype=np.uint8)).save(picture, "png")
        made.put_file(label, "generate/samples.png", picture.getvalue())
    made.put_file("c|d", "invariance/invariance.npz", shifted_views())
    return made


def draw(study: Study, name: str) -> Any:
    figure = next(one for one in study.experiment.spec.figures if one.name == name)
    evidence = study.evidence
    return figures.draw(figure, evidence, build_table(evidence))


@pytest.mark.parametrize("name", NAMES)
def test_the_same_bytes_each_time_and_fonts_inside(name: str, study: Study) -> None:
    drawn = [draw(study, name) for _ in range(2)]
    png, pdf = ([make(one) for one in drawn] for make in (as_png, as_pdf))
    for one in drawn:
        close(one)
    assert png[0] == png[1] and pdf[0] == pdf[1]
    assert np.asarray(Image.open(io.BytesIO(png[0])).convert("L")).std() > 5, "something is drawn"
    assert b"/FontFile2" in pdf[0] and b"/Type3" not in pdf[0], "TrueType, embedded"
    assert b"CreationDate" not in pdf[0]


def test_processes_side_by_side_write_what_one_writes(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evidence, written = study.evidence, []
    for cpus in (1, 3):
        folder = tmp_path / str(cpus)
        folder.mkdir()
        monkeypatch.setattr("star.report.figures.parallel.usable_cores", lambda cpus=cpus: cpus)
        tasks = [(figure, evidence, build_table(evidence), folder) for figure in study.experiment.spec.figures]
        assert [path and path.stem for path in write_together(tasks)] == NAMES
        written.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert written[0] == written[1]
    assert len(written[0]) == 2 * len(NAMES)


@pytest.mark.parametrize("cpus", [1, 2])
def test_a_figure_that_cannot_be_written_is_an_error(
    cpus: int, study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("star.report.figures.parallel.usable_cores", lambda: cpus)
    figure = study.experiment.spec.figures[0]
    with pytest.raises(FileNotFoundError, match="nowhere"):
        list(write_together([(figure, study.evidence, None, tmp_path / "nowhere")] * 2))


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_drawn_of_nothing(name: str, tmp_path: Path) -> None:
    assert draw(Study(tmp_path, STUDY + TABLE + FIGURES), name) is None


def lines_of(axis: Any) -> dict[str, list[float]]:
    return {line.get_label(): list(line.get_ydata()) for line in axis.get_lines() if len(line.get_ydata()) > 1}


def test_curves_show_the_mean_and_the_published_ones_beside(study: Study) -> None:
    drawn = draw(study, "probe")
    own, paper = drawn.axes
    means = [line.get_ydata() for line in own.get_lines() if len(line.get_ydata()) == 2]
    assert len(means) == 3 and all(np.allclose(values, [55.0, 75.0]) for values in means)
    assert "n = 2" in own.get_title() and [text.get_text() for text in own.get_legend().get_texts()][:1] == ["plain"]
    assert any(
        np.allclose(line.get_ydata(), [5.8, 10.5, 15.7, 20.3, 22.7, 22.7, 21.3, 18.7])
        for line in paper.get_lines()
        if len(line.get_ydata()) == 8
    )
    assert own.get_xlabel() == "position" and "2509.15185" in paper.get_title()
    colours = {line.get_color() for line in own.get_lines() if len(line.get_ydata()) == 2}
    assert len(colours) == 3 and len(set(markers(["plain", "a & b_1", "c|d"]).values())) == 3
    close(drawn)


def test_curves_as_text(study: Study) -> None:
    figure = curves.curves_of(study.evidence)[0]
    assert curves.markdown(figure, study.evidence)[2] == "| plain | 55.00 ± 7.07 | 75.00 ± 7.07 |"
    text = curves.comma_separated(study.evidence).splitlines()
    assert text[1] == "probe/accuracy_by_position,plain,12,0.55,0.07071067811865474,2"
    long = {step: 1.0 for step in range(curves.WIDEST + 1)}
    study.put_curve("plain", "probe/accuracy_by_position", long)
    assert curves.markdown(figure, study.evidence) == [], "too wide for a table"


def test_an_ablation_shows_our_values_over_the_papers(study: Study) -> None:
    drawn = draw(study, "ablation")
    measured, published = drawn.axes[0], drawn.axes[2]
    assert any(
        np.allclose(line.get_ydata(), [30.0, 29.0]) for line in measured.get_lines() if len(line.get_ydata()) == 2
    )
    assert any(np.allclose(line.get_ydata(), [26.58, 26.36]) for line in published.get_lines())
    assert [tick.get_text() for tick in published.get_xticklabels()] == ["0.25", "0.5"]
    close(drawn)


def test_attention_hides_what_is_not_seen_and_marks_the_current_code(study: Study) -> None:
    drawn = draw(study, "positions")
    panels = [axis for axis in drawn.axes if axis.get_images() and axis.get_images()[0].get_array().shape == (7, 7)]
    assert len(panels) == 2 * 2 * 3  # two images, two models, three positions
    seen = [
        np.isfinite(np.ma.filled(axis.get_images()[0].get_array().astype(float), np.nan)).sum() for axis in panels[:3]
    ]
    assert seen == [1, 23, 48], "the condition alone; 23 codes before the 24th"
    squares = [axis.patches[0].get_xy() if axis.patches else None for axis in panels[:3]]
    assert squares == [None, (22 % 7 - 0.5, 22 // 7 - 0.5), (47 % 7 - 0.5, 47 // 7 - 0.5)]
    close(drawn)


def test_changed_codes_are_framed(study: Study) -> None:
    drawn = draw(study, "codes")
    with np.load(io.BytesIO(shifted_views())) as arrays:
        assert [len(axis.patches) for axis in drawn.axes] == [int(n) for n in arrays["changed_right_1"].sum((1, 2))] * 2
    close(drawn)


def test_pdf_text_is_text(study: Study) -> None:
    """Words can be searched for and copied: glyphs are not outlines."""
    drawn = draw(study, "probe")
    streams = re.findall(rb"stream\r?\n(.*?)\r?\nendstream", as_pdf(drawn), re.DOTALL)
    texts = [zlib.decompress(stream) for stream in streams if stream[:1] == b"x"]
    assert any(b"BT" in text and b"Tj" in text or b"TJ" in text for text in texts)
    close(drawn)


@pytest.mark.parametrize("found", [True, False])
def test_letters_of_chinese_labels(
    study: Study, tmp_path: Path, found: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Drawn where a font for them is installed, also since matplotlib has made its list; told where none is."""
    monkeypatch.setitem(matplotlib.rcParams, "font.family", ["sans-serif"])
    if not found:
        monkeypatch.setattr(style.font_manager, "findSystemFonts", lambda: [])
        monkeypatch.setattr(style, "CJK", ())
    elif not any(part in path.lower() for path in style.font_manager.findSystemFonts() for part in style.CJK_FILES):
        pytest.skip("no font for Chinese is installed here")
    monkeypatch.setattr("star.report.figures.ablation._short", lambda path: "\u63a9\u7801\u6bd4 $1$")
    figure = next(one for one in study.experiment.spec.figures if one.name == "ablation")
    path = figures.write(figure, study.evidence, build_table(study.evidence), tmp_path)
    said = capfd.readouterr().err
    assert path is not None and path.stat().st_size > 1000
    if found:
        assert not said
    else:
        assert said.count("note:") == 1 and "no installed font has \u63a9, \u6bd4, \u7801, so boxes" in said


def test_long_labels_stand_in_lines() -> None:
    long = (
        "all that a row's label may say of how its model was trained, and of what, on which data, for how many steps, "
        * 3
    )
    lines = style.shown(long).split("\n")
    assert len(lines) > 5 and max(map(len, lines)) <= style.LABEL
    assert style.shown(long + " 0.1 " + long) != style.shown(long + " 0.2 " + long)
    assert style.shown("plain") == "plain" and style.shown("_x") == " _x" and style.shown("") == ""
    assert style.legend_height(["a", "b"], 2) == pytest.approx(0.18)
    assert style.legend_height(["a", long], 2) > 0.5


LABELS = [
    "baseline",
    "baseline, two views",
    "ST-AR, mask ratio 0.05",
    "ST-AR, with a label that needs two lines of a legend",
]
WIDE = f"""
experiment: study
title: A study
profile: tiny
seeds: [0, 1]
rows:
  - {{label: "{LABELS[0]}", spec: {{selfguided: {{mim_weight: 0, contrastive_weight: 0}}}}}}
  - {{label: "{LABELS[1]}", spec: {{selfguided: {{mim_weight: 0}}}}}}
  - {{label: "{LABELS[2]}", spec: {{selfguided: {{mask_ratio: 0.05}}}}}}
  - {{label: "{LABELS[3]}", spec: {{selfguided: {{mask_ratio: 0.1}}}}}}
targets: [score, probe]
table:
  caption: A
  columns:
    - {{title: Row, label: true}}
    - {{title: FD, metric: "score/{{extractor}}/frechet_distance", better: lower}}
    - {{title: Probe, metric: probe/accuracy, better: higher}}
figures:
  - {{name: trend, kind: trend, title: T, x: [optim.steps], row: "{LABELS[3]}", than: ["{LABELS[0]}", "{LABELS[2]}"]}}
  - {{name: rates, kind: ablation, title: T, x: optim.lr}}
  - {{name: loss, kind: curves, title: Loss, metric: train/ar_loss}}
"""


@pytest.mark.parametrize("name", ["trend", "rates", "loss"])
def test_labels_stay_inside_and_ticks_apart(name: str, tmp_path: Path) -> None:
    axes = "axes: {optim.steps: [10, 12, 14, 1000], optim.lr: [0.0001, 0.0002, 0.0005, 0.001]}\n"
    wide = WIDE if name == "loss" else WIDE.replace("rows:\n", f"{axes}rows:\n")
    figures = [line for line in wide.splitlines() if "{name: " not in line or f"{{name: {name}," in line]
    study = Study(tmp_path, "\n".join(figures))
    for i, variant in enumerate(study.experiment.variants):
        study.put(variant.label, FD, 30.0 + i, 31.0 - i)
        study.put(variant.label, "probe/accuracy", 0.7 + i / 100, 0.7)
        curve = {100_000 * (1 + step): 5.0 - step / 9 for step in range(15)}
        study.put_curve(variant.label, "train/ar_loss", curve, curve)
    drawing = draw(study, name)
    as_png(drawing)
    renderer, whole = drawing.canvas.get_renderer(), drawing.bbox
    legends = [*drawing.legends, *(one for axis in drawing.axes if (one := axis.get_legend()))]
    assert legends
    for legend in legends:
        box = legend.get_window_extent(renderer)
        frame = 4  # pixels, not drawn
        assert box.x0 >= -frame and box.x1 <= whole.width + frame, (box, whole)
        assert box.y0 >= -frame and box.y1 <= whole.height + frame, (box, whole)
    for axis in drawing.axes:
        texts = [one for one in axis.get_xticklabels() if one.get_text() and one.get_rotation() == 0]
        boxes = sorted((one.get_window_extent(renderer) for one in texts), key=lambda box: box.x0)
        assert all(left.x1 <= right.x0 for left, right in zip(boxes, boxes[1:], strict=False)), name
        assert "e6" not in axis.xaxis.get_offset_text().get_text()
    close(drawing)
