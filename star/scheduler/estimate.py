"""What a run costs, from its spec alone: floating-point operations and bytes on disk of each stage.

A multiply-add counts as two operations; a backward pass as twice the forward one.
"""

from __future__ import annotations

from itertools import pairwise

from star.spec.images import TokenizerSpec
from star.spec.run import RunSpec
from star.spec.run_base import Run

NUM_VIEWS = 10
EFFICIENTNET_LITE0 = 2 * 407e6
"""Operations for one image of 224 x 224, as published."""
INCEPTION = 11.4e9
"""For one image, of 299 x 299 whatever its size; counted on the modules."""
FLOPS_PER_SECOND = 2e10
"""One CPU core, where neither the ledger nor `resources.gpu` knows better."""


STARTUP = 3.0
"""Seconds until a worker has imported torch."""


def parameters(spec: RunSpec) -> int:
    """The number of parameters of the transformer."""
    model, codes = spec.model, spec.tokenizer.codebook_size
    block = 4 * model.dim**2 + 3 * model.dim * model.ffn_hidden + 2 * model.dim
    return model.n_layer * block + model.dim * (2 * codes + spec.data.num_classes + 1 + 1)


def forward_flops(spec: RunSpec, layers: int | None = None, head: bool = True) -> float:
    """One sequence through the transformer: `layers` of its blocks, causal attention at its true half, the head."""
    model, length = spec.model, spec.sequence_length
    block = 2 * (4 * model.dim**2 + 3 * model.dim * model.ffn_hidden) * length + 2 * model.dim * length * (length + 1)
    return (layers or model.n_layer) * block + (2 * model.dim * spec.tokenizer.codebook_size * length if head else 0)


def vq_flops(spec: TokenizerSpec, image_size: int, image_channels: int) -> tuple[float, float]:
    """(encode, decode) of one image: convolutions and attention."""
    widths = [spec.channels * mult for mult in spec.channel_mult]
    sides = [image_size >> level for level in range(len(widths))]
    top, side = widths[-1], sides[-1]
    middle = 4 * _conv(top, top, side) + _attention(top, side)

    encode = _conv(image_channels, spec.channels, image_size) + middle + _conv(top, spec.z_channels, side)
    encode += 2.0 * side**2 * (spec.z_channels * spec.codebook_dim + spec.codebook_dim * spec.codebook_size)
    decode = (
        2.0 * side**2 * spec.z_channels * spec.codebook_dim
        + _conv(spec.z_channels, top, side)
        + middle
        + _conv(widths[0], image_channels, image_size)
    )
    for level, (inputs, outputs) in enumerate(pairwise([spec.channels, *widths])):
        encode += _level(inputs, outputs, sides[level], spec.res_blocks, level == len(widths) - 1)
        encode += _conv(outputs, outputs, sides[level + 1]) if level < len(widths) - 1 else 0
    for level, (inputs, outputs) in enumerate(pairwise([top, *reversed(widths)])):
        at = sides[-1 - level]
        decode += _level(inputs, outputs, at, spec.res_blocks + 1, level == 0)
        decode += _conv(outputs, outputs, 2 * at) if level < len(widths) - 1 else 0
    return encode, decode


def _conv(inputs: int, outputs: int, side: int, kernel: int = 3) -> float:
    return 2.0 * inputs * outputs * kernel**2 * side**2


def _attention(channels: int, side: int) -> float:
    return 4 * _conv(channels, channels, side, kernel=1) + 4.0 * channels * side**4


def _level(inputs: int, outputs: int, side: int, blocks: int, attention: bool) -> float:
    first = (
        _conv(inputs, outputs, side)
        + _conv(outputs, outputs, side)
        + (_conv(inputs, outputs, side, kernel=1) if inputs != outputs else 0)
    )
    rest = (blocks - 1) * 2 * _conv(outputs, outputs, side)
    return first + rest + (blocks * _attention(outputs, side) if attention else 0)


def train_flops(spec: RunSpec) -> float:
    """All optimizer steps: the student forward and backward, the teacher forward without its head."""
    selfguided = spec.selfguided
    student_views = min(selfguided.student_views, selfguided.num_views)
    per_image = 3 * forward_flops(spec) * student_views
    if selfguided.teacher:  # only as deep, and of as many views, as a loss that is on reads
        layers = None if selfguided.mim else spec.contrastive_layer
        views = selfguided.num_views if selfguided.contrastive else student_views
        per_image += forward_flops(spec, layers, head=False) * views
    if selfguided.contrastive:
        widths = [spec.model.dim, *[selfguided.projector_hidden] * (selfguided.projector_layers - 1), spec.model.dim]
        per_image += 6 * sum(a * b for a, b in pairwise(widths)) * selfguided.num_positions * student_views
    return per_image * spec.optim.batch_size * spec.last_step


def probe_passes(spec: RunSpec) -> int:
    """Sequences of training images that pass the backbone for the probe: once if their features fit, else in each epoch."""
    views = NUM_VIEWS * len(spec.data.crop_ranges) if spec.probe.views == "stored" else 1
    size = 2 if spec.probe.feature_dtype == "fp16" else 4
    features = spec.data.train_images * views * spec.probe.positions * spec.model.dim
    if features * size <= spec.resources.feature_cache_gb * 1e9:
        return spec.data.train_images * views
    return spec.data.train_images * (views + spec.probe.epochs)  # the first pass is for the batch norm


def stored_views(spec: RunSpec) -> int:
    """Views of training images whose codes are kept: ten for each crop range."""
    return spec.data.train_images * NUM_VIEWS * len(spec.data.crop_ranges)


def stage_flops(stage: str, spec: Run) -> float:
    """Operations of one stage of a run; 0 of the user's own, of which nobody knows."""
    if not isinstance(spec, RunSpec) or spec.pipeline[stage].is_own:
        return 0.0
    encode, decode = vq_flops(spec.tokenizer, spec.data.image_size, spec.data.channels)
    if getattr(spec.tokenizer, "name", "vq") != "vq":  # a plugin's, of which nobody knows
        encode = decode = 0.0
    views = stored_views(spec) + spec.data.test_images
    extract = (
        INCEPTION if spec.score.extractor == "inception" else EFFICIENTNET_LITE0 * (spec.score.input_size / 224) ** 2
    )
    if stage == "tokenizer":
        trained = 0 if spec.tokenizer.weights else 3 * spec.tokenizer.steps * spec.tokenizer.batch_size
        return (encode + decode) * (trained + min(spec.data.test_images, 2000))
    if stage == "generate":
        if spec.generate.samples:
            return 0.0
        passes = 2 if spec.generate.cfg_scale > 1 else 1
        return spec.generate.num_images * (passes * forward_flops(spec) + decode)
    probe = (probe_passes(spec) + spec.data.test_images) * forward_flops(spec, spec.probe_layer, head=False)
    heads = (
        6.0
        * spec.probe.epochs
        * spec.data.train_images
        * len(spec.probe.base_lrs)
        * spec.probe.positions
        * spec.model.dim
        * spec.data.num_classes
    )
    costs = {
        "dataset": 0.0,
        "encode": (spec.data.test_images if spec.data.codes else views) * encode,
        "train": train_flops(spec),
        "reference": spec.score.num_reference * extract,
        "score": spec.generate.num_images * extract,
        "probe": probe + heads,
        "attention": min(spec.attention.images, spec.data.test_images) * forward_flops(spec, head=False),
        "invariance": min(spec.invariance.images, spec.data.test_images)
        * (1 + 2 * len(spec.invariance.shifts))
        * encode,
    }
    return costs[stage]


def stage_bytes(stage: str, spec: Run) -> float:
    """Bytes that a stage leaves on disk; 0 of the user's own, of which nobody knows."""
    if not isinstance(spec, RunSpec) or spec.pipeline[stage].is_own:
        return 0.0
    pixels = spec.data.image_size**2 * spec.data.channels
    sizes = {
        "encode": 2.0 * spec.sequence_length * (stored_views(spec) + spec.data.test_images),
        "train": 4.0 * parameters(spec) * (2 if spec.selfguided.teacher else 1),
        "generate": float(
            spec.generate.num_images * (spec.generate.image_size or spec.data.image_size) ** 2 * spec.data.channels
        ),
        "reference": min(spec.score.num_reference, spec.score.manifold_images) * (1280 * 4.0 + pixels)
        + 2 * 1280**2 * 8.0,
    }
    return sizes.get(stage, 1e5)


def checkpoint_bytes(spec: Run) -> float:
    """What a training keeps until it is done: the newest checkpoints and the best weights. Student, teacher, two moments."""
    if not isinstance(spec, RunSpec):
        return 0.0
    copies = (4 if spec.selfguided.teacher else 3) * spec.resources.keep_checkpoints
    return 4.0 * parameters(spec) * (copies + (1 if spec.resources.validate_every else 0))


def gpu_hours(spec: Run, flops: float) -> float:
    """Of `flops` operations on `resources.gpu`, which must be set."""
    speed = spec.resources.flops_per_second
    assert speed is not None, "gpu_hours wants resources.gpu"
    return flops / speed / 3600


def stage_seconds(stage: str, spec: Run, speeds: dict[str, float], flops: float) -> float:
    """Expected duration of `flops` operations on `resources.gpu`, else at the speed of this ledger's own jobs of the stage,
    else at a CPU core's."""
    resources = spec.resources
    speed = resources.flops_per_second or speeds.get(stage, FLOPS_PER_SECOND * resources.threads_of(stage))
    speed *= resources.processes_of(stage) * resources.nodes_of(stage)
    return STARTUP + flops / speed
