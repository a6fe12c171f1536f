"""`star-exp weights export`: which job, which weights, which file; tensors are another process's business."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click

from star.cli.places import writable
from star.cli.status import look
from star.errors import SpecError, StarError

SUFFIXES = {"llamagen": ".pt", "safetensors": ".safetensors"}
STAGES = ("train", "tokenizer")


def export_weights(path: Path, prefix: str, weights: str, form: str, target: Path | None) -> None:
    """Write the weights of a run (its trained transformer), or of a train or tokenizer job."""
    home, ledger = look(path)
    kind, key = ledger.resolve(prefix)
    stage = "train"
    if kind == "run":
        key = ledger.runs([key])[key].stages["train"]
    else:
        stage = ledger.jobs([key])[key].stage
        if stage not in STAGES:
            raise SpecError(f"{prefix}: stage {stage} has no weights; give a run, a train job or a tokenizer job.")
    suffix = SUFFIXES[form]
    target = target or Path(f"{stage}-{key}-{weights}{suffix}" if stage == "train" else f"{stage}-{key}{suffix}")
    if target.suffix != suffix:
        raise SpecError(f"--out {target}: give a name that ends in {suffix}, as {form} files do.")
    job = home.job(stage, key)
    if not job.result.exists():
        raise StarError(
            f"{stage} {key}: is not done, so there is nothing to export; `star-exp show {key[:6]}` says how far it is."
        )
    writable(target, "--out")
    command = [sys.executable, "-m", "star.export", str(job.path), weights, form, str(target)]
    if code := subprocess.run(command).returncode:
        sys.exit(code)
    click.echo(f"wrote {target}")
