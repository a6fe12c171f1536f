"""Stage `probe`: linear probes of frozen features."""

from __future__ import annotations

from star.data.codes import CodeStore
from star.evaluate.linear_probe import probe_positions, train_probe
from star.evaluate.probe_features import BackboneFeatures
from star.stages.context import Context, Result, gpt_of


def probe(ctx: Context) -> Result:
    """Linear-probe accuracy at equally spaced positions; `accuracy` is that of the last position, as in table 3."""
    model, spec, resources = gpt_of(ctx, "student"), ctx.spec.probe, ctx.spec.resources
    positions = probe_positions(spec.positions, ctx.spec.sequence_length)
    sides, room = [], resources.feature_cache_gb * 1e9
    for split in ("train", "test"):
        side = BackboneFeatures(
            model,
            CodeStore(ctx.inputs["encode"] / split),
            ctx.spec.probe_layer,
            positions,
            resources.sample_batch_size,
            stored_views=spec.views == "stored" and split == "train",
            dtype=spec.feature_dtype,
            limit=room,
            seed=ctx.spec.seed,
            progress=ctx.progress,
        )
        sides.append(side)
        room -= 0 if side.kept is None else side.kept.nbytes
    found = train_probe(sides[0], sides[1], ctx.spec.data.num_classes, spec, positions, ctx.spec.seed, ctx.progress)
    for position, top1, top5, rate in zip(
        found.positions, found.accuracy, found.accuracy_top5, found.best_lr, strict=True
    ):
        values = {"accuracy_by_position": top1, "accuracy_top5_by_position": top5, "best_lr_by_position": rate}
        ctx.record(position, values)
    return {"accuracy": found.accuracy[-1], "accuracy_top5": found.accuracy_top5[-1]}
