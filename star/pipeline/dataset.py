"""Stage `dataset`: chooses the data set's images that a run uses; the section `data` of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from star.spec.graph import Stage

if TYPE_CHECKING:
    from star.pipeline.config.dataset import DataSpec

NUM_VIEWS = 10
"""Number of views (crops) of an image that each crop range gives."""


def codes_folders(folder: Path, ranges: int) -> list[Path]:
    """Folders of imported codes, one for each crop range, as LlamaGen's extraction names them: FOLDER, FOLDER_105."""
    return [folder, folder.with_name(f"{folder.name}_105")][:ranges]


def is_shuffled(data: DataSpec) -> bool:
    """Whether the images come in random order, so that the first ones are of all classes; folders lie class by class."""
    return bool(data.name == "fashion-mnist")


DATASET = Stage(
    "dataset",
    1,
    ("data",),
    config={"data": "star.pipeline.config.dataset:DataSpec"},
    check="star.pipeline.config.dataset:check",
    run="star.stages.dataset:dataset",
    draws="the choice of images",
    source="data",
    given=("data.path",),
    look="star.data.look:images",
    results=("skipped",),
    gpu=False,
    flops=lambda run: 0.0,
    is_target=False,
)
