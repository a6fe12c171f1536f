"""The section `data` of a run: images and their crops."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from star.pipeline.dataset import NUM_VIEWS, codes_folders
from star.spec.base import Count, FieldError, GivenPath, Section

if TYPE_CHECKING:
    from star.pipeline.config.run import StarRun


SOURCES = ("fashion-mnist", "image-folder", "parquet")


class DataSpec(Section):
    """Images and their crops."""

    name: Literal[SOURCES] = Field(  # type: ignore[valid-type]
        "fashion-mnist", description="which images; also the name of a data set of a plugin"
    )
    path: GivenPath | None = Field(
        None,
        description="image-folder: one subfolder per class, as torchvision's ImageFolder, or train/ and val/ of such; parquet: a "
        "folder of train*.parquet and validation*.parquet, as Hugging Face stores images; outside the key",
    )
    train_split: str | None = Field(
        None,
        description="image-folder and parquet: the part to train on, where names such as train/ do not say it; `.`: the whole folder",
    )
    test_split: str | None = Field(
        None,
        description="the part held out, where val/ (or else test/) is not it; the same as train_split: a share of it, by hash",
    )
    manifest: Literal["content", "sizes"] = Field(
        "content",
        description="what names the images in keys: hashes of all files, each read once; or only names and sizes, for sets too large to "
        "read twice, where a file that is replaced by one of its size is not noticed",
    )
    exact_counts: bool = Field(
        False, description="fewer images than train_images or test_images are an error, not a smaller data set"
    )
    image_column: str = Field("image", description="parquet: column of encoded images (bytes, or a struct with bytes)")
    label_column: str = Field("label", description="parquet: column of class numbers")
    bad_images: Literal["error", "skip"] = Field(
        "error", description="an image or label that cannot be read: stop there, or leave it out and count it"
    )
    codes: GivenPath | None = Field(
        None,
        description="a folder of LlamaGen's codes to import instead of encoding the training images; outside the key",
    )
    num_classes: Count = Field(10, description="classes; the condition table has one row more, the null label")
    channels: Literal[1, 3] = Field(1, description="1: grey, 3: RGB")
    image_size: Annotated[int, Field(ge=8, le=1024)] = Field(28, description="side of a crop in pixels")
    train_images: Count = Field(
        60_000, description="training images used, at most (drawn once, the same for every run)"
    )
    test_images: Count = Field(10_000, description="test images used by the probe and the validation loss, at most")
    crop_range: Annotated[float, Field(ge=1, le=2)] = Field(
        1.1, description="side before cropping / side of a crop (ADM crop)"
    )
    extra_crop_range: Annotated[float, Field(ge=1, le=2)] | None = Field(
        None, description="a second such number, for ten more views (LlamaGen's 1.05)"
    )
    enlarge: Literal["resize", "pad"] = Field(
        "resize", description="how the larger side comes about: bicubic resize, or a zero border"
    )
    pad_to: Annotated[int, Field(ge=8, le=1024)] | None = Field(
        None,
        description="side of squares that images are brought to first, small ones by a zero border, before all are resized to image_size; "
        "they then show what runs at that side with enlarge: pad show, crops too",
    )
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.1, description="image-folder or parquet without a validation split: share held out by hash"
    )

    @property
    def crop_ranges(self) -> list[float]:
        """The crop ranges in use, one or two; each gives ten views."""
        return [self.crop_range, *([] if self.extra_crop_range is None else [self.extra_crop_range])]

    @property
    def first_view_order(self) -> bool:
        """Whether the views have the order, and so the keys, of this project's first runs: 5 to 8 are 0 to 3 mirrored.

        True for Fashion-MNIST, because no other program's codes of it are imported, unless side and crop differ by an
        odd number: there the tenth view was one column off torchvision's. All other images have torchvision's order.
        """
        margins = (int(self.image_size * crop_range) - self.image_size for crop_range in self.crop_ranges)
        return self.name == "fashion-mnist" and all(margin % 2 == 0 for margin in margins)

    @property
    def codes_folders(self) -> list[Path]:
        """Folders of imported codes, one for each crop range; empty if no codes are imported."""
        return [] if self.codes is None else codes_folders(Path(self.codes), len(self.crop_ranges))

    @property
    def stored_views(self) -> int:
        """Number of views of training images whose codes are kept: ten per image and crop range."""
        return self.train_images * NUM_VIEWS * len(self.crop_ranges)

    def identity(self) -> dict[str, Any]:
        """The fields in the key: no paths, no unset options, and no fields that this kind of data set does not read."""
        unused = {"path", "codes", "manifest", "exact_counts"} | (
            {"test_fraction"} if self.name == "fashion-mnist" else set()
        )
        unused |= {"image_column", "label_column"} if self.name != "parquet" else set()
        unused |= {name for name in ("train_split", "test_split") if getattr(self, name) is None}
        unused |= {"bad_images"} if self.bad_images == "error" else set()
        unused |= {name for name in ("extra_crop_range", "pad_to") if getattr(self, name) is None}
        return self.model_dump(mode="json", exclude=unused)


def remarks_on_views(run: StarRun) -> list[str]:
    """Sentences on views that are the same pixels, though a step draws several of an image."""
    data, found = run.data, []
    if run.selfguided.num_views < 2 or run.generate.samples is not None or data.codes is not None:
        return []
    sides = [int(data.image_size * crop_range) for crop_range in data.crop_ranges]
    for field, side in zip(("crop_range", "extra_crop_range"), sides, strict=False):
        if side - data.image_size < 2:
            what = "2 are distinct" if side == data.image_size else "8 are distinct"
            found.append(
                f"data.{field}: crops of {data.image_size} pixels from {side}: of ten views {what}, so a step may draw one twice"
            )
    if len(set(sides)) < len(sides):
        found.append(
            f"data.extra_crop_range: crops from {sides[1]} pixels, as crop_range has them: each view is there twice"
        )
    return found


def check(run: StarRun) -> None:
    data = run.data
    if data.pad_to is not None and data.enlarge == "pad":
        raise FieldError(
            "data.pad_to", f"what is padded to {data.pad_to} is then resized; give enlarge: resize, or leave this out"
        )
    if data.name != "fashion-mnist":
        if data.path is None:
            raise FieldError(
                "data.path",
                f"name: {data.name} needs the path of its folder{'' if data.name in SOURCES else ' or file'}",
            )
        return
    for field in ("path", "train_split", "test_split"):
        if getattr(data, field) is not None:
            raise FieldError(
                f"data.{field}",
                "fashion-mnist is fetched and reads none; give data.name too: image-folder, parquet or FILE.py:CLASS",
            )
    for split, there in (("train", 60_000), ("test", 10_000)):
        asked = getattr(data, f"{split}_images")
        if asked > there:
            what = "training" if split == "train" else "test"
            raise FieldError(f"data.{split}_images", f"{asked} is more than the {there} {what} images of Fashion-MNIST")
    if data.num_classes != 10 or data.channels != 1:
        field = "channels" if data.num_classes == 10 else "num_classes"
        raise FieldError(f"data.{field}", "Fashion-MNIST has 10 classes and 1 channel")
