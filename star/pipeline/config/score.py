"""The section `score` of a run: how generated images are scored against reference images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from star.spec.base import Count, FieldError, GivenPath, Section

if TYPE_CHECKING:
    from star.pipeline.config.run import StarRun


class ScoreSpec(Section):
    """Generated against reference images. Distances carry the name of the network whose features they use."""

    extractor: Literal["efficientnet-lite0", "inception"] = Field(
        "efficientnet-lite0", description="inception gives the field's FID, sFID and IS; it needs its weights"
    )
    weights: GivenPath | None = Field(
        None,
        description="inception: its file; null: the one that `star-exp weights fetch inception` keeps. Only the published file "
        "is taken, so it is outside the key",
    )
    reference: GivenPath | None = Field(
        None,
        description="a reference file in ADM's layout to compare with, in place of training images; its hash enters the key",
    )
    input_size: Annotated[int, Field(ge=32, le=512)] = Field(
        224, description="efficientnet-lite0: side to which it resizes its images"
    )
    image_size: Annotated[int, Field(ge=8, le=1024)] | None = Field(
        None, description="side to which both sets are resized first; null keeps"
    )
    num_reference: Annotated[int, Field(ge=16)] = Field(50_000, description="reference images, from the training set")
    manifold_images: Annotated[int, Field(ge=16)] = Field(
        10_000, description="of which this many, spread evenly, serve precision and recall"
    )
    neighbours: Count = Field(3, description="k of precision and recall")
    is_split_size: Annotated[int, Field(ge=2)] = Field(5000, description="images of a split of the inception score")

    def identity(self) -> dict[str, Any]:
        """The fields in the key: no paths, and no fields that this extractor or kind of reference does not read."""
        unused = {"weights", "reference"} | ({"input_size"} if self.extractor == "inception" else set())
        unused |= {"num_reference", "manifold_images"} if self.reference else set()
        return self.model_dump(mode="json", exclude=unused)


def check(run: StarRun) -> None:
    score = run.score
    if score.weights and score.extractor != "inception":
        raise FieldError(
            "score.weights", f"the extractor {score.extractor} has its own; give extractor: inception, or null"
        )
    own = run.resources
    shared = {} if run.generate.samples else {"score": run.generate.num_images}
    shared |= {} if score.reference else {"reference": score.num_reference}
    for stage, images in shared.items():
        if (wide := own.processes_of(stage) * own.nodes_of(stage)) > images:
            raise FieldError(
                f"resources.{stage}.processes", f"{wide} processes are more than the {images} images that they share"
            )
    if score.reference is None and score.num_reference > run.data.train_images:
        raise FieldError(
            "score.num_reference", f"{score.num_reference} is more than data.train_images = {run.data.train_images}"
        )
    kept = () if score.reference else (score.num_reference, score.manifold_images)
    compared = min((run.generate.num_images, *kept))
    if score.neighbours >= compared:
        raise FieldError("score.neighbours", f"{score.neighbours} is too many for {compared} images")
