"""Stage `train`: the transformer, trained on codes."""

from __future__ import annotations

import shutil

from star.data.codes import CodeStore
from star.metric_log import read_metrics
from star.rundir import write_bytes
from star.stages.context import Context, Result, job_of
from star.train.terms import terms_of
from star.train.trainer import RECORD_EVERY, Trainer
from star.weights import save_weights

STATES = "step-*.pt"
"""Pattern of the names of the checkpoints that training resumes from."""


def train(ctx: Context) -> Result:
    """Train the transformer, with ST-AR's objective or without, and write its student, teacher and best weights."""
    stores = [CodeStore(ctx.inputs["encode"] / split) for split in ("train", "test")]
    if ctx.ranks.is_main:
        for store in stores:
            store.verify()
        resume_from_earlier(ctx)
    ctx.ranks.barrier()
    terms = terms_of(ctx.spec, ctx.plugins)
    for term in terms:
        with term.told("prepare"):
            term.prepare(job_of(ctx, None, {}))
    told = (ctx.record, ctx.progress, ctx.stop)
    trainer = Trainer(ctx.spec, stores[0], stores[1], ctx.checkpoints, ctx.device, *told, ctx.ranks, terms)
    result = trainer.train()
    weights = {"student": trainer.student_state(), "teacher": trainer.teacher_state(), "best": trainer.best_state()}
    for name, state in weights.items():
        if state is not None and ctx.ranks.is_main:
            save_weights(ctx.out / f"{name}.pt", state)
    if ctx.spec.optim.stop_at_step and ctx.ranks.is_main:
        newest = max(ctx.checkpoints.glob(STATES))
        shutil.copy(newest, ctx.out / newest.name)
    return result


def resume_from_earlier(ctx: Context) -> None:
    """Start from the last state of a run that ended at an earlier step of the same schedule, and record its metrics.

    What follows is the same, bit for bit, as without the stop.
    """
    if ctx.spec.resources.validate_every:  # a state does not hold the best weights so far
        return
    states = [(path.name, path) for folder in ctx.resume_from for path in folder.glob(STATES)]
    if not states or any(ctx.checkpoints.glob(STATES)):
        return
    name, state = max(states)
    for _, line in read_metrics(state.parent.parent / "metrics.jsonl"):
        if line["step"] == 1 or line["step"] % RECORD_EVERY == 0:  # as a run that was never stopped records
            ctx.record(line["step"], line["metrics"])
    ctx.checkpoints.mkdir(exist_ok=True)
    # written last: an attempt that finds it does nothing of the above
    write_bytes(ctx.checkpoints / name, state.read_bytes())
