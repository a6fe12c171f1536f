"""A run: one variant with one seed, every field resolved."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import model_validator

from star.spec.base import FieldError, resolve_layer
from star.spec.graph import Stage, stages_of
from star.spec.images import SOURCES, DataSpec, TokenizerSpec
from star.spec.resources import ResourceSpec
from star.spec.run_base import Run, Seed, Training
from star.spec.sections import (
    AttentionSpec,
    GenerateSpec,
    InvarianceSpec,
    ModelSpec,
    OptimSpec,
    ProbeSpec,
    ScoreSpec,
    SelfGuidedSpec,
)


class RunSpec(Run):
    """A run of ST-AR."""

    data: DataSpec = DataSpec()
    tokenizer: TokenizerSpec = TokenizerSpec()
    model: ModelSpec = ModelSpec()
    selfguided: SelfGuidedSpec = SelfGuidedSpec()
    optim: OptimSpec
    generate: GenerateSpec = GenerateSpec()
    score: ScoreSpec = ScoreSpec()
    probe: ProbeSpec = ProbeSpec()
    attention: AttentionSpec = AttentionSpec()
    invariance: InvarianceSpec = InvarianceSpec()
    resources: ResourceSpec = ResourceSpec()
    seed: Seed = 0

    @model_validator(mode="after")
    def _fits_together(self) -> RunSpec:
        data, tokenizer = self.data, self.tokenizer
        if data.image_size % tokenizer.downsample:
            whose = getattr(tokenizer, "name", "vq")
            whose = "tokenizer.channel_mult" if whose == "vq" else f"the tokenizer {whose}"
            raise FieldError(
                "data.image_size",
                f"{data.image_size} is not a multiple of {tokenizer.downsample}, the downsampling of {whose}",
            )
        if data.name != "fashion-mnist" and data.path is None:
            raise FieldError(
                "data.path",
                f"name: {data.name} needs the path of its folder{'' if data.name in SOURCES else ' or file'}",
            )
        if data.name == "fashion-mnist":
            self._fashion_mnist()
        for path, layer in (
            ("selfguided.contrastive_layer", self.selfguided.contrastive_layer),
            ("probe.layer", self.probe.layer),
        ):
            try:
                resolve_layer(layer, self.model.n_layer)
            except ValueError as error:
                raise FieldError(path, str(error)) from None
        self._counts()
        if self.optim.steps == 0 and self.model.weights is None:
            raise FieldError(
                "optim.steps", "0 steps train nothing; give at least 1, or model.weights to use as they are"
            )
        if self.optim.stop_at_step is not None and self.optim.stop_at_step >= self.total_steps:
            raise FieldError(
                "optim.stop_at_step",
                f"{self.optim.stop_at_step} is not before the end, {self.total_steps} steps; leave it out",
            )
        if self.selfguided.num_views > 10 * len(data.crop_ranges):
            raise FieldError(
                "selfguided.num_views",
                f"{self.selfguided.num_views} is more than the {10 * len(data.crop_ranges)} stored views; "
                "give fewer, or data.extra_crop_range",
            )
        self._ranks()
        if self.generate.weights == "teacher" and not self.has_teacher:
            raise FieldError("generate.weights", "the plain baseline has no teacher to sample from; use student")
        return self

    def _ranks(self) -> None:
        ranks = self.resources.processes_of("train") * self.resources.nodes_of("train")
        if self.optim.batch_size % ranks:
            raise FieldError(
                "optim.batch_size",
                f"{self.optim.batch_size} images cannot be shared evenly by resources.train.processes (times nodes) = {ranks}",
            )

    def _fashion_mnist(self) -> None:
        data = self.data
        if data.train_images > 60_000:
            raise FieldError(
                "data.train_images", f"{data.train_images} is more than the 60000 training images of Fashion-MNIST"
            )
        if data.test_images > 10_000:
            raise FieldError(
                "data.test_images", f"{data.test_images} is more than the 10000 test images of Fashion-MNIST"
            )
        if data.num_classes != 10 or data.channels != 1:
            field = "channels" if data.num_classes == 10 else "num_classes"
            raise FieldError(f"data.{field}", "Fashion-MNIST has 10 classes and 1 channel")

    def _counts(self) -> None:
        selfguided, length = self.selfguided, self.sequence_length
        if selfguided.contrastive and selfguided.num_positions > length:
            raise FieldError(
                "selfguided.num_positions",
                f"{selfguided.num_positions} is more than the {length} positions of a {self.grid} x {self.grid} grid",
            )
        if selfguided.mim_positions == "masked" and selfguided.mim and round(selfguided.mask_ratio * (length - 1)) == 0:
            raise FieldError(
                "selfguided.mask_ratio",
                f"{selfguided.mask_ratio} hides none of {length - 1} positions, but mim_positions is masked",
            )
        if self.optim.batch_size > self.data.train_images:
            raise FieldError(
                "optim.batch_size", f"{self.optim.batch_size} is more than data.train_images = {self.data.train_images}"
            )
        self._measuring()
        if selfguided.contrastive and self.optim.batch_size < 2:
            raise FieldError(
                "optim.batch_size", "the contrastive losses take their negatives from other images; give at least 2"
            )
        if self.generate.top_k > self.tokenizer.codebook_size:
            raise FieldError(
                "generate.top_k",
                f"{self.generate.top_k} is more than tokenizer.codebook_size = {self.tokenizer.codebook_size}",
            )

    def _measuring(self) -> None:
        score, length = self.score, self.sequence_length
        if score.weights and score.extractor != "inception":
            raise FieldError(
                "score.weights", f"the extractor {score.extractor} has its own; give extractor: inception, or null"
            )
        if score.reference is None and score.num_reference > self.data.train_images:
            raise FieldError(
                "score.num_reference",
                f"{score.num_reference} is more than data.train_images = {self.data.train_images}",
            )
        compared = min(self.generate.num_images, score.num_reference, score.manifold_images)
        if score.neighbours >= compared:
            raise FieldError("score.neighbours", f"{score.neighbours} is too many for {compared} images")
        if self.probe.positions > length:
            raise FieldError(
                "probe.positions",
                f"{self.probe.positions} is more than the {length} positions of a {self.grid} x {self.grid} grid",
            )
        downsample = self.tokenizer.downsample
        beyond = [shift for shift in self.invariance.shifts if round(shift / downsample) >= self.grid]
        if beyond:
            raise FieldError(
                "invariance.shifts",
                f"{beyond[0]} leaves nothing to compare of an image of {self.data.image_size} pixels; give less",
            )

    @property
    def pipeline(self) -> Mapping[str, Stage]:
        """All stages, or those that score given images."""
        return stages_of(self.generate.samples is not None)

    @property
    def training(self) -> Training | None:
        """Its optimizer steps."""
        return Training("train", "optim.stop_at_step", self.total_steps)

    @property
    def has_seed(self) -> bool:
        """Given images were made without one that we know of."""
        return self.generate.samples is None

    @property
    def shared(self) -> tuple[Any, ...]:
        """Layers are counted in the model, and validation chooses the best weights."""
        return id(self.model), self.resources.validate_every

    def section(self, name: str) -> Any:
        """What a stage's key holds of a part, as JSON."""
        if name == "seed" and not self.has_seed:
            return None
        values = super().section(name)
        # "1/2" of 12 layers and 6 are the same layer
        if name == "selfguided" and "contrastive_layer" in values:
            values["contrastive_layer"] = self.contrastive_layer
        if name == "probe":
            values["layer"] = self.probe_layer
        if name == "optim" and self.resources.validate_every:  # it makes the best weights, and a curve
            values["validate_every"] = self.resources.validate_every
        return values

    def compared_by(self, stage: str) -> str | None:
        """Of scores: how images are scored."""
        return json.dumps(self.score.identity(), sort_keys=True, separators=(",", ":")) if stage == "score" else None

    def metric(self, name: str) -> str:
        """A metric's name with the extractor of its features."""
        return name.replace("{extractor}", self.score.extractor)

    @property
    def has_teacher(self) -> bool:
        """Whether an average of the model's weights is kept."""
        return self.selfguided.teacher

    @property
    def grid(self) -> int:
        """Codes along one side of an image."""
        return self.data.image_size // self.tokenizer.downsample

    @property
    def sequence_length(self) -> int:
        """T: codes of one image."""
        return self.grid**2

    @property
    def contrastive_layer(self) -> int:
        """1-based layer whose output the contrastive losses use."""
        return resolve_layer(self.selfguided.contrastive_layer, self.model.n_layer)

    @property
    def probe_layer(self) -> int:
        """1-based layer whose output the probe reads."""
        return resolve_layer(self.probe.layer, self.model.n_layer)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the training; an epoch drops its last incomplete batch."""
        if self.optim.steps is not None:
            return self.optim.steps
        assert self.optim.epochs is not None
        return self.optim.epochs * (self.data.train_images // self.optim.batch_size)

    @property
    def last_step(self) -> int:
        """The optimizer step after which this run ends: the schedule's last, or `optim.stop_at_step`."""
        return self.optim.stop_at_step or self.total_steps
