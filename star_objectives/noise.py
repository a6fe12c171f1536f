"""Noise on the input codes, as reAR trains with (arXiv 2510.04450): errors as sampling makes them, which training never sees."""

from __future__ import annotations

import torch
from pydantic import Field

from star.objectives import Batch, Setting, Term, TermConfig


class NoiseConfig(TermConfig):
    """How many of the input codes are replaced; any weight above 0 switches it on."""

    highest: float = Field(1.0, gt=0, le=1, description="highest probability of a sequence, at the start")
    until: float = Field(0.75, gt=0, le=1, description="share of the schedule after which codes are fed as they are")


class Noise(Term):
    """Replaces each input code by a uniformly drawn one with a probability e; what is predicted stays.

    e is drawn for each sequence from U(0, F), where F falls linearly from `highest` to 0 at `until`. The condition is
    never replaced.
    """

    name = "noise"
    version = 1
    config = NoiseConfig
    agrees_with = frozenset({"order", "sequence"})
    changes = frozenset({"inputs"})

    def __init__(self, fields: NoiseConfig, setting: Setting) -> None:
        self.spec, self.codebook_size = fields, setting.codebook_size

    def draw(self, batch: Batch, generator: torch.Generator) -> None:
        """Set `batch.inputs` (B, S, T), and `batch.drawn["noise"]`, True where a code was replaced."""
        codes = batch.codes[:, : batch.student_views]
        highest = self.spec.highest * max(0.0, 1 - batch.progress / self.spec.until)
        probability = highest * torch.rand(*codes.shape[:2], 1, generator=generator)
        replaced = torch.rand(codes.shape, generator=generator) < probability
        others = torch.randint(self.codebook_size, codes.shape, generator=generator)
        batch.inputs = torch.where(replaced, others, codes)
        batch.drawn[self.name] = replaced
