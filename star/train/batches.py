"""Images, views, labels, masks and positions of a step: a function of (seed, step) alone, the same on every rank."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from star.data.codes import CodeStore, distinct_views, order_of_epoch, part_of
from star.errors import DataError
from star.objectives.batch import Batch, ClassDropout, draw_batch
from star.objectives.term import Term
from star.pipeline.config.run import StarRun


def batch_at(spec: StarRun, terms: Sequence[Term], data: CodeStore, step: int) -> Batch:
    """The global batch of optimizer step `step` (from 0), on the CPU: the same for every call and on every rank.

    Raises:
        DataError: fewer images are left than a batch has.
        ValueError: as `draw_batch`.
    """
    size, model = spec.optim.batch_size, spec.model
    total = min(len(data), spec.images_trained_on)
    if total < size:
        raise DataError(
            f"optim.batch_size: {size}, but only {total} images were left after bad ones; give at most that."
        )
    epoch, place = divmod(step, total // size)
    images = order_of_epoch(spec.seed, epoch, total)[place * size : (place + 1) * size]
    images = np.sort(images if total == len(data) else part_of(len(data), total)[images])
    views = distinct_views(spec.seed, step, size, spec.selfguided.num_views, data.num_views)
    codes, labels = torch.from_numpy(data.gather(images, views)), torch.from_numpy(data.labels[images])
    generator = torch.Generator().manual_seed(_mix(spec.seed, 3, step))
    dropout = max(model.token_dropout, model.residual_dropout, model.ffn_dropout) > 0
    class_dropout = ClassDropout(spec.data.num_classes, model.class_dropout_prob, model.class_dropout_per)
    return draw_batch(
        terms,
        codes,
        labels,
        spec.selfguided.student_views,
        class_dropout,
        generator,
        dropout,
        progress=step / spec.total_steps,
        images=torch.from_numpy(images),
        stored_views=torch.from_numpy(views),
    )


def _mix(*parts: int) -> int:
    """One 32-bit seed from several numbers: torch's CPU generator uses only the lowest 32 bits of a seed."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])
