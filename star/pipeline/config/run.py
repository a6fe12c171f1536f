"""A run of ST-AR's stages: what follows from its sections together. The stages declare the sections themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from star.pipeline.config.dataset import remarks_on_views
from star.pipeline.config.selfguided import num_masked
from star.pipeline.floor import floored
from star.pipeline.model import parameters
from star.pipeline.score import compared, scored
from star.spec.base import resolve_layer
from star.spec.graph import Stage, needed_of
from star.spec.outside import Paths
from star.spec.run_base import Run, Training

if TYPE_CHECKING:
    from star.pipeline.config.attention import AttentionSpec
    from star.pipeline.config.dataset import DataSpec
    from star.pipeline.config.features import FeaturesSpec
    from star.pipeline.config.floor import FloorSpec
    from star.pipeline.config.generate import GenerateSpec
    from star.pipeline.config.invariance import InvarianceSpec
    from star.pipeline.config.model import ModelSpec
    from star.pipeline.config.probe import ProbeSpec
    from star.pipeline.config.resources import StarResources
    from star.pipeline.config.score import ScoreSpec
    from star.pipeline.config.selfguided import SelfGuidedSpec
    from star.pipeline.config.tokenizer import TokenizerSpec
    from star.pipeline.config.train import OptimSpec


@dataclass(frozen=True)
class TermCost:
    """What a plugin's term adds to the cost of training."""

    flops: float
    """Of a step, for each student sequence, forward and backward, without the teacher."""
    teacher_layers: int = 0
    """Layers that the teacher has to run."""
    all_views: bool = False
    """Whether the teacher has to see all views of an image, and not only the student's."""


class StarRun(Run):
    """A run of ST-AR."""

    if TYPE_CHECKING:  # as the stages declare them
        data: DataSpec
        tokenizer: TokenizerSpec
        model: ModelSpec
        selfguided: SelfGuidedSpec
        optim: OptimSpec
        generate: GenerateSpec
        score: ScoreSpec
        features: FeaturesSpec
        floor: FloorSpec
        probe: ProbeSpec
        attention: AttentionSpec
        invariance: InvarianceSpec
        resources: StarResources

    not_searched = ("optim.stop_at_step", "generate.samples")
    settled_by = "star.data.look:sized"

    @property
    def pipeline(self) -> Mapping[str, Stage]:
        """The run's stages by name: all, or only those that scoring needs if `generate.samples` gives images."""
        if self.generate.samples is None:
            left_out = set() if "features" in self.read_by_terms else {"features"}
            return {name: stage for name, stage in self.declared_stages.items() if name not in left_out}
        kept = needed_of(["score"], self.declared_stages, self)
        return {name: stage for name, stage in self.declared_stages.items() if name in kept}

    @property
    def training(self) -> Training | None:
        """The stage `train`, counted in optimizer steps; `optim.stop_at_step` ends it early."""
        return Training("train", "optim.stop_at_step", self.total_steps, self.last_step)

    @property
    def has_seed(self) -> bool:
        """Whether a known seed made the run's images; False if `generate.samples` gives them."""
        return self.generate.samples is None

    @property
    def is_arranged(self) -> bool:
        """Whether a term has student and teacher see the codes in another order."""
        return False

    @property
    def own_costs(self) -> list[TermCost]:
        """What terms of plugins add to the cost of training."""
        return []

    @property
    def shared(self) -> tuple[Any, ...]:
        """What `section` reads beside a section: the model, for layers given as fractions, `validate_every`, images, the grid."""
        sizes = self.floor_images, self.generate.image_size, self.grid, self.tokenizer.codebook_size
        return id(self.model), self.resources.validate_every, *sizes

    @property
    def outside_paths(self) -> Paths:
        """Files and folders that the run names: images, imported codes, weights, a reference file, given images."""
        data = self.data
        given: dict[str, list[tuple[Any, str]]] = {
            "data": [(data.path, data.manifest)],
            "codes": [(folder, data.manifest) for folder in data.codes_folders],
            "samples": [(self.generate.samples, "content")],
            "tokenizer": [(self.tokenizer.weights_file, "content")],
            "encoder": [(self.features.weights, "content")],
            "model": [(self.model.weights, "content")],
            "reference": [(self.score.reference, "content")],
        }
        return {source: [(Path(path), how) for path, how in named if path] for source, named in given.items()}

    @property
    def num_parameters(self) -> int | None:
        """Number of parameters of the transformer."""
        return parameters(self)

    @property
    def cannot_go_on(self) -> tuple[str, str] | None:
        """(field, reason) with `resources.validate_every`: the best weights so far would be missing. Else None."""
        if not self.resources.validate_every:
            return None
        return (
            "resources.validate_every",
            "the best weights on the way are not kept where a trial is compared, so none could go on from there; set it to null",
        )

    def section(self, name: str) -> Any:
        """What a stage's key holds of a section, or of the seed, as JSON."""
        if name == "seed" and not self.has_seed:
            return None
        values = super().section(name)
        # "1/2" of 12 layers and 6 are the same layer
        if name == "selfguided" and "contrastive_layer" in values:
            values["contrastive_layer"] = self.contrastive_layer
        if name == "probe":
            values["layer"] = self.probe_layer
        if name == "generate" and values:  # what changes nothing is as if it were not given
            values |= {"cfg_until": None} if (values["cfg_until"] or 0) >= self.sequence_length else {}
            values |= {"top_k": 0} if values["top_k"] == self.tokenizer.codebook_size else {}
        if name == "features":
            values["grid"] = self.grid
        if name == "floor":
            values["num_images"] = self.floor_images
            if self.generate.image_size not in (None, self.data.image_size):
                values["image_size"] = self.generate.image_size
        if name == "optim" and self.images_trained_on == self.data.train_images:
            values.pop("train_images", None)
        if name == "optim" and self.resources.validate_every:  # it makes the best weights, and a curve
            values["validate_every"] = self.resources.validate_every
        return values

    def compared_by(self, stage: str) -> str | None:
        """For `score`: how images are scored, as JSON text; only runs with the same text can be compared. Else None."""
        return compared(self) if stage == "score" else None

    def measured_by(self, stage: str) -> str | None:
        """For `score` of generated images, and `floor`: a note on the features and the numbers of images. Else None."""
        if self.generate.samples is not None:
            return None
        return scored(self) if stage == "score" else floored(self) if stage == "floor" else None

    def metric(self, name: str) -> str:
        """A metric's name with `{extractor}` replaced by the extractor of this run."""
        return name.replace("{extractor}", self.score.extractor)

    def not_recorded(self, metric: str, at: str | None = None) -> str | None:
        """What to change if this run does not record `metric`, a loss that is off or one beyond its end; None if it does."""
        own, last = self.selfguided, self.last_step
        off = {
            "train/val_nll_by_step": (
                bool(self.resources.validate_every),
                "set resources.validate_every, or give train/val_nll",
            ),
            "train/mim_loss": (own.mim, "selfguided.mim_weight is 0"),
            "train/inter_step_loss": (own.contrastive and own.inter_step, "selfguided gives no inter-step loss"),
            "train/inter_view_loss": (own.contrastive and own.inter_view, "selfguided gives no inter-view loss"),
        }
        if metric in off and not off[metric][0]:
            return off[metric][1]
        if at is None or not at.isdigit():
            return None
        if metric.startswith("train/") and int(at) > last:
            return f"optim: the training ends at step {last}"
        count, length = self.probe.positions, self.sequence_length
        measured = [round(length * (i + 1) / count) for i in range(count)]
        if metric.startswith("probe/") and int(at) not in measured:
            return f"probe: it measures positions {', '.join(map(str, measured))}"
        return None

    def remarks(self) -> list[str]:
        """Sentences on what is legal, and probably not meant: parts that are still to begin when all is over."""
        own, vq, probe, model = self.optim, self.tokenizer, self.probe, self.model
        found = remarks_on_views(self)
        if model.class_dropout_prob == 0 and model.weights is None and self.generate.samples is None:
            found.append(
                "model.class_dropout_prob: 0: the null label is never trained, and the probe and guidance read it; 0.1 is usual"
            )
        for field, values in (("probe.base_lrs", probe.base_lrs), ("invariance.shifts", self.invariance.shifts)):
            if len(set(values)) < len(values):
                found.append(
                    f"{field}: {', '.join(f'{value:g}' for value in values)}: one is there twice, and is computed twice"
                )
        if self.floor_images < 2 and self.generate.samples is None:
            found.append(
                "data.test_images: 1 held-out image has no spread to measure a distance by, so `floor` will fail; give more"
            )
        if self.is_unconditional and self.generate.cfg_scale > 1:
            found.append("generate.cfg_scale: class_dropout_prob of 1 trains no class, so there is nothing to guide to")
        if self.selfguided.masked and num_masked(self.selfguided.mask_ratio, self.sequence_length) == 0:
            found.append(
                f"selfguided.mask_ratio: {self.selfguided.mask_ratio:g} of {self.sequence_length - 1} codes hides none"
            )
        if 0 < self.total_steps <= own.warmup_steps:
            found.append(
                f"optim.warmup_steps: {own.warmup_steps} of {self.total_steps} steps: the learning rate never leaves the warm-up"
            )
        if probe.epochs <= probe.warmup_epochs:
            found.append(
                f"probe.warmup_epochs: {probe.warmup_epochs} of {probe.epochs} epochs: the learning rate never leaves the warm-up"
            )
        if vq.weights is None and vq.adversarial_weight and vq.steps <= vq.adversarial_start:
            found.append(
                f"tokenizer.adversarial_start: {vq.adversarial_start} of {vq.steps} steps: the discriminator never begins"
            )
        return found

    def with_smaller_passes(self, times: int) -> Self:
        """The run with images per pass of training, evaluation and sampling, and the probe's cache, halved `times` times."""
        own = self.resources
        if times == 0:
            return self
        share = self.optim.batch_size // (own.processes_of("train") * own.nodes_of("train"))
        changes: dict[str, float] = {
            "micro_batch_size": max(1, (own.micro_batch_size or share) >> times),
            "eval_batch_size": max(1, own.eval_batch_size >> times),
            "sample_batch_size": max(1, own.sample_batch_size >> times),
            "feature_cache_gb": own.feature_cache_gb / 2**times,
        }
        return self.model_copy(update={"resources": own.model_copy(update=changes)})

    @classmethod
    def given_instead(cls, values: Mapping[str, Any]) -> str | None:
        """Path of another model's images in a partial spec, `generate.samples`; None if there is none."""
        section = values.get("generate")
        found = section.get("samples") if isinstance(section, Mapping) else None
        return str(found) if found else None

    @classmethod
    def filled_in(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """A value for `optim.steps` if images are given and no length is: nothing is trained, but one is required."""
        section = values.get("optim")
        is_open = not {"steps", "epochs"} & set(section if isinstance(section, Mapping) else ())
        return {"optim.steps": 1} if cls.given_instead(values) and is_open else {}

    @classmethod
    def conditions_of(cls, runs: Sequence[Any]) -> str:
        """The runs' data, codes and steps in words, for the notes below a table; empty if no run trains a model."""
        trained = [run for run in runs if isinstance(run, StarRun) and run.generate.samples is None]
        if not trained:
            return ""
        spec, steps = trained[0], sorted({run.total_steps for run in trained})
        codes = sorted({(run.grid, run.tokenizer.codebook_size) for run in trained})
        images = sorted({run.images_trained_on for run in trained})
        whole = "" if images == [spec.data.train_images] else f" of {spec.data.train_images}"
        return (
            f"{spec.data.name}, {' or '.join(map(str, images))}{whole} training images of {spec.data.image_size} x {spec.data.image_size}, "
            f"{' or '.join(f'{grid} x {grid} codes of {size}' for grid, size in codes)}, "
            f"{' or '.join(map(str, steps))} steps of {spec.optim.batch_size} images."
        )

    @property
    def floor_images(self) -> int:
        """How many held-out images the stage `floor` scores: as many as are sampled unless `floor.num_images` says."""
        return min(self.floor.num_images or self.generate.num_images, self.data.test_images)

    @property
    def has_teacher(self) -> bool:
        """Whether an average of the model's weights is kept."""
        return self.selfguided.teacher

    @property
    def is_unconditional(self) -> bool:
        """Whether the model learns no class: every image trains under the null label, and it starts from no other weights."""
        return self.model.class_dropout_prob == 1 and self.model.weights is None

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
        return self.optim.epochs * (self.images_trained_on // self.optim.batch_size)

    @property
    def images_trained_on(self) -> int:
        """Images that the transformer is trained on: all of the data's, or `optim.train_images` of them."""
        return self.optim.train_images or self.data.train_images

    @property
    def last_step(self) -> int:
        """The optimizer step after which this run ends: the schedule's last, or `optim.stop_at_step`."""
        return self.optim.stop_at_step or self.total_steps
