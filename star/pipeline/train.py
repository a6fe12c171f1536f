"""Stage `train`: the transformer, with or without ST-AR's objective; the sections `model`, `selfguided`, `optim`."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from star.pipeline.model import forward_flops, parameters
from star.spec.graph import Stage

if TYPE_CHECKING:
    from star.pipeline.config.run import StarRun


def train_flops(run: StarRun) -> float:
    """FLOPs of all optimizer steps: student and projector forward and backward, teacher forward without its head."""
    selfguided, own = run.selfguided, run.own_costs
    student_views = min(selfguided.student_views, selfguided.num_views)
    per_image = (3 * forward_flops(run) + sum(cost.flops for cost in own)) * student_views
    # the teacher runs only as many layers and views as the losses that are on read
    layers = [cost.teacher_layers for cost in own]
    layers += [run.model.n_layer] * selfguided.mim + [run.contrastive_layer] * selfguided.contrastive
    if max(layers, default=0):
        # several layers are read of a whole pass, as is another order
        depth = max(layers) if len(set(layers)) == 1 and not run.is_arranged else run.model.n_layer
        all_views = selfguided.contrastive or any(cost.all_views for cost in own)
        per_image += forward_flops(run, depth, head=False) * (selfguided.num_views if all_views else student_views)
    if selfguided.contrastive:
        widths = [run.model.dim, *[selfguided.projector_hidden] * (selfguided.projector_layers - 1), run.model.dim]
        per_image += 6 * sum(a * b for a, b in pairwise(widths)) * selfguided.num_positions * student_views
    return per_image * run.optim.batch_size * run.last_step


def _checkpoints(run: StarRun) -> float:
    """Bytes of the checkpoints that are kept (student, teacher, two moments, in float32) and of the best weights."""
    copies = (4 if run.has_teacher else 3) * run.resources.keep_checkpoints
    return 4.0 * parameters(run) * (copies + (1 if run.resources.validate_every else 0))


_LOSSES = ("loss", "ar_loss", "mim_loss", "inter_step_loss", "inter_view_loss")

TRAIN = Stage(
    "train",
    2,  # from 2 on, a model without classes is validated without them
    ("model", "selfguided", "optim", "seed"),
    ("encode",),
    config={
        "model": "star.pipeline.config.model:ModelSpec",
        "selfguided": "star.pipeline.config.selfguided:SelfGuidedSpec",
        "optim": "star.pipeline.config.train:OptimSpec",
    },
    check="star.pipeline.config.train:check",
    run="star.stages.train:train",
    draws="initial weights, order of images and views, masks and positions",
    source="model",
    given=("model.weights",),
    look="star.data.look:model_weights",
    results=("val_nll", "parameters"),
    curves=dict.fromkeys((*_LOSSES, "grad_norm", "val_nll_by_step"), "step"),
    also_recorded=("lr",),
    highlights={"val_nll": "val_nll"},
    charts=(*_LOSSES, "val_nll_by_step", "grad_norm"),
    weights=("student", "teacher", "best"),
    keeps="checkpoints",
    width="machines",
    flops=train_flops,
    disk=lambda run: 4.0 * parameters(run) * (2 if run.has_teacher else 1),
    working_disk=_checkpoints,
    optional=("terms",),
    unchanged=lambda run: not run.is_unconditional,
)
