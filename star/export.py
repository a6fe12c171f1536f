"""Export a job's weights to a file: `python -m star.export JOB_DIR WEIGHTS FORMAT TARGET PRECISION`.

llamagen       a .pt file with the weights under `model`, as LlamaGen's sampling and extraction scripts load it
safetensors    a .safetensors file, and a config.json beside it with the model's configuration
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from star.errors import DataError
from star.pipeline.tokenizer import TOKENIZER
from star.rundir import JobDir, write_bytes, write_json
from star.spec.run_class import parse_run
from star.tokenizer.load import BUFFER, BUFFER_SIZE
from star.weights import load_weights, save_weights
from star.words import shown


def export(job: JobDir, weights: str, form: str, target: Path, precision: str = "fp32") -> None:
    """Write the weights of a `train` or `tokenizer` job to `target`; for safetensors also config.json beside it, replacing one there.

    Args:
        weights: `student`, `teacher` or `best`; ignored for a tokenizer, which has one kind.
        form: `safetensors`, or `llamagen` for a .pt file with the weights under `model`.
        precision: `fp32` leaves weights as they are kept; `fp16` halves the file, and what loads it computes in fp32 all the same.

    Raises:
        DataError: the job has no such weights, its output was deleted, or the file is damaged.
        pydantic.ValidationError: the job is of a run that this version does not know.
        OSError: the job cannot be read, or `target` cannot be written.
    """
    content = json.loads(job.job.read_text())
    tokenizer = content["stage"] == TOKENIZER.name
    path = job.out / f"{TOKENIZER.weights[0] if tokenizer else weights}.pt"
    if not path.exists():
        if job.read_result() is not None and job.was_deleted():
            raise DataError(
                f"{job.path.name}: its output was deleted; `star-exp rerun {content['key'][:8]}` makes it again."
            )
        there = ", ".join(sorted(found.stem for found in job.out.glob("*.pt"))) or "none: it is not done"
        raise DataError(f"--weights {weights}: {job.path.name} has no such weights; it has: {there}.")
    state = load_weights(path)
    if precision == "fp16":
        state = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    target.parent.mkdir(parents=True, exist_ok=True)
    spec: Any = parse_run(content["spec"])
    own = _own_tokenizer(spec)
    if form == "safetensors":
        _safetensors(state, spec, tokenizer, target)
    else:
        if tokenizer and own is None:  # LlamaGen loads strictly, and expects this training statistic too
            state[BUFFER] = torch.zeros(BUFFER_SIZE)
        save_weights(target, {"model": state})


def _own_tokenizer(spec: Any) -> dict[str, Any] | None:
    """The config of a plugin's tokenizer; None if the run has none."""
    if getattr(spec, "tokenizer_plugin", None) is None:
        return None
    chosen = spec.tokenizer
    return {
        "model_type": chosen.name,
        "codebook_size": chosen.codebook_size,
        **getattr(chosen, chosen.name).model_dump(mode="json"),
    }


def _safetensors(state: dict[str, Tensor], spec: Any, tokenizer: bool, target: Path) -> None:
    from safetensors.torch import save

    own = _own_tokenizer(spec)
    if tokenizer and own is not None:
        config = {**own, "image_channels": spec.data.channels}
    elif tokenizer:
        names: tuple[str, ...] = (
            "channels",
            "channel_mult",
            "res_blocks",
            "z_channels",
            "codebook_size",
            "codebook_dim",
            "l2_normalize",
        )
        config = {"model_type": "llamagen-vq", "image_channels": spec.data.channels}
        config |= {name: getattr(spec.tokenizer, name) for name in names}
        if spec.tokenizer.decoder_channels is not None:
            config["decoder_channels"] = spec.tokenizer.decoder_channels
    else:
        names = ("n_layer", "n_head", "dim", "ffn_multiple_of", "rope_base", "norm_eps")
        config = {"model_type": "llamagen-gpt", **{name: getattr(spec.model, name) for name in names}}
        config |= {"ffn_hidden": spec.model.ffn_hidden, "grid": spec.grid, "block_size": spec.sequence_length}
        config |= {"vocab_size": spec.tokenizer.codebook_size, "num_classes": spec.data.num_classes}
    contiguous = {key: value.contiguous() for key, value in state.items()}
    write_bytes(target, save(contiguous, metadata={"format": "pt"}))
    write_json(target.with_name("config.json"), config)


def main(folder: str, weights: str, form: str, target: str, precision: str = "fp32") -> int:
    """Export the weights; returns the exit code: 0, or 2 for an error, printed to stderr."""
    try:
        export(JobDir(Path(folder)), weights, form, Path(target), precision)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {shown(error.filename or target)}: {error.strerror or error}.", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
