"""The stages of a run: names, versions, what each reads. Light on purpose: the code of the stages imports torch.

Raise a stage's version when its result changes for the same spec; everything downstream then gets a new key.
`star.stages.STAGES` holds the code under the same names, and a test keeps the two in agreement.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, cast

if TYPE_CHECKING:
    from star.spec.run import RunSpec
    from star.spec.run_base import Run


@dataclass(frozen=True)
class Stage:
    """One content-addressed step: its key is made of name, version, sections and the keys of its inputs."""

    name: str
    version: int
    sections: tuple[str, ...]
    inputs: tuple[str, ...] = ()
    source: str | None = None
    """What of the outside world it reads, by fingerprint: `data` (images), `codes` (imported ones), `reference` (a file of
    moments), `samples` (another model's images), `tokenizer` or `model` (weights)."""
    results: tuple[str, ...] = ()
    """The numbers it ends with, as columns of a table name them; `{extractor}` is filled from the run's spec."""
    curves: dict[str, str] = field(default_factory=dict)
    """Numbers it records step by step, and what a step is."""
    files: tuple[str, ...] = ()
    """What of its output is attached to the tracked run: pictures, and data for figures."""
    keeps: Literal["checkpoints", "shards"] | None = None
    """What an attempt that was stopped or killed leaves to the next one."""
    width: Literal["process", "processes", "machines"] = "process"
    """What may share one job of it: nothing, several processes of a machine, or several machines."""
    gpu: bool = True
    """Whether it computes on a GPU where there is one."""
    optional: tuple[str, ...] = ()
    """Sections that a run may lack: one that is not there, or holds nothing, is no part of the key."""
    unchanged: Callable[[RunSpec], bool] | None = None
    """For which runs the newest version gives what the one before gave, bit for bit: they keep its key."""
    command: dict[str, Any] | None = None
    """Of a stage of the user's own that is called: how, and what is read of it."""
    code: str | None = None
    """Of a stage of a plugin: what its key says of its code."""

    @property
    def is_own(self) -> bool:
        """Whether it is the user's."""
        return self.command is not None or self.code is not None

    def sections_of(self, spec: Run) -> tuple[str, ...]:
        """The sections of a run that are in its key."""
        own = type(spec).model_fields
        return (*self.sections, *(name for name in self.optional if name in own and spec.section(name)))

    def version_of(self, spec: Run) -> int:
        """The version that counts for a run."""
        return (
            self.version - 1 if self.unchanged is not None and self.unchanged(cast("RunSpec", spec)) else self.version
        )


_SCORES = ("frechet_distance", "spatial_frechet_distance", "inception_score", "precision", "recall")
_LOSSES = ("loss", "ar_loss", "mim_loss", "inter_step_loss", "inter_view_loss")
_ATTENTION = ("distance", "condition_share", "self_share", "neighbour_share")

_OF_SAMPLES = ("dataset", "reference", "generate", "score")

STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage("dataset", 1, ("data",), source="data", results=("skipped",), gpu=False),
        Stage(
            "tokenizer",
            2,  # its crops are torchvision's ten
            ("tokenizer",),
            ("dataset",),
            source="tokenizer",
            results=("mse", "psnr", "codebook_usage", "codebook_perplexity"),
            keeps="checkpoints",
            unchanged=lambda spec: spec.data.first_view_order or spec.tokenizer.weights is not None,
        ),
        Stage(
            "encode",
            2,  # so are its views, and imported codes are numbered as LlamaGen numbers them
            (),
            ("dataset", "tokenizer"),
            source="codes",
            results=("skipped",),
            keeps="shards",
            width="processes",
            unchanged=lambda spec: spec.data.first_view_order,
        ),
        Stage(
            "train",
            1,
            ("model", "selfguided", "optim", "seed"),
            ("encode",),
            source="model",
            results=("val_nll",),
            curves=dict.fromkeys((*_LOSSES, "grad_norm", "val_nll_by_step"), "step"),
            keeps="checkpoints",
            width="machines",
            optional=("terms",),
        ),
        Stage("reference", 2, ("score",), ("dataset",), source="reference", width="processes"),
        Stage(
            "generate",
            2,  # top_p keeps one code more where the probabilities tie at it
            ("generate", "seed"),
            ("train", "tokenizer"),
            source="samples",
            files=("samples.png",),
            keeps="shards",
            width="processes",
            unchanged=lambda spec: spec.generate.top_p == 1,
        ),
        Stage(
            "score",
            2,
            ("score",),
            ("generate", "reference"),
            results=tuple(f"{{extractor}}/{name}" for name in _SCORES),
            width="processes",
        ),
        Stage(
            "probe",
            2,
            ("probe", "seed"),
            ("train", "encode"),
            results=("accuracy", "accuracy_top5"),
            curves=dict.fromkeys(
                ("accuracy_by_position", "accuracy_top5_by_position", "best_lr_by_position"), "position"
            ),
        ),
        Stage(
            "attention",
            1,
            ("attention",),
            ("train", "encode", "tokenizer"),
            results=(*_ATTENTION, *(f"last_layer_{name}" for name in _ATTENTION)),
            curves={f"{name}_by_{step}": step for step in ("layer", "position") for name in _ATTENTION},
            files=("attention.npz",),
        ),
        Stage(
            "invariance",
            1,
            ("invariance",),
            ("dataset", "tokenizer"),
            results=("change_rate",),
            curves={"change_rate_by_shift": "shift"},
            files=("invariance.npz",),
        ),
    )
}


def goes_on(stage: str) -> str:
    """What the next attempt at a stage does after one that was stopped or killed, as words behind "it"."""
    if stage not in STAGES:
        return "goes on from the checkpoints that it keeps, or begins again"
    keeps = STAGES[stage].keeps
    if keeps == "checkpoints":
        return "goes on from its last checkpoint"
    return "goes on after the shards that are finished" if keeps == "shards" else "begins again"


def stages_of(samples_given: bool) -> dict[str, Stage]:
    """The stages of a run: all, or those that score given images. Inputs that it lacks do not count."""
    return {name: stage for name, stage in STAGES.items() if not samples_given or name in _OF_SAMPLES}


def result_names(stages: Mapping[str, Stage] = STAGES) -> list[str]:
    """Every number that a table's column may show, as `stage/name`."""
    return [f"{stage.name}/{result}" for stage in stages.values() for result in stage.results]


def curve_names(stages: Mapping[str, Stage] = STAGES) -> dict[str, str]:
    """Every curve that a report may show, as `stage/name`, and what its steps are."""
    return {f"{stage.name}/{name}": step for stage in stages.values() for name, step in stage.curves.items()}


@cache
def needed(targets: tuple[str, ...]) -> tuple[str, ...]:
    """`targets` and all they need, each after its inputs. A stage of the user's own stands for itself: where its declaration is not
    at hand, those that it needs are among the targets."""
    return needed_of(targets, STAGES)


def needed_of(targets: Iterable[str], stages: Mapping[str, Stage]) -> tuple[str, ...]:
    """`targets` and all they need of `stages`, each after its inputs."""
    order: list[str] = []

    def visit(name: str) -> None:
        for before in stages[name].inputs if name in stages else ():
            visit(before)
        if name not in order:
            order.append(name)

    for target in targets:
        visit(target)
    return tuple(order)
