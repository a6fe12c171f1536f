"""`star-exp weights export`: finds the job, the weights and the file; another process works with tensors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click

from star.cli.places import writable
from star.cli.status import look
from star.errors import SpecError, StarError
from star.spec.builtin import builtin_stages

SUFFIXES = {"llamagen": ".pt", "safetensors": ".safetensors"}


def export_weights(path: Path, prefix: str, weights: str, form: str, target: Path | None, precision: str) -> None:
    """Write the weights of a run (of the last of its stages that has some), or of a job, to a file."""
    home, ledger = look(path)
    kind, key = ledger.resolve(prefix)
    known = {name: stage.weights for name, stage in builtin_stages().items() if stage.weights}
    jobs = " or ".join(f"a {name} job" for name in reversed(known))
    if kind == "run":
        stages = ledger.runs.of([key])[key].stages
        stage = next((name for name in reversed(known) if name in stages), None)
        if stage is None:
            raise SpecError(f"{prefix}: this run has no weights of ours; give another, or {jobs}.")
        key = stages[stage]
    else:
        stage = ledger.jobs.of([key])[key].stage
        if stage not in known:
            raise SpecError(f"{prefix}: stage {stage} has no weights; give a run, {jobs}.")
    suffix, which = SUFFIXES[form], f"-{weights}" if len(known[stage]) > 1 else ""
    target = target or Path(f"{stage}-{key}{which}{suffix}")
    if target.suffix != suffix:
        raise SpecError(f"--out {target}: give a name that ends in {suffix}, as {form} files do.")
    job = home.job(stage, key)
    if job.read_result() is None:
        raise StarError(
            f"{stage} {key}: is not done, so there is nothing to export; `star-exp show {key[:6]}` says how far it is."
        )
    writable(target, "--out")
    command = [sys.executable, "-m", "star.export", str(job.path), weights, form, str(target), precision]
    if code := subprocess.run(command).returncode:
        sys.exit(code)
    click.echo(f"wrote {target}")
