"""A moving average of the model's weights and nothing else: the control that many published gains lack."""

from __future__ import annotations

from star.objectives import TeacherReads, Term, TermConfig


class EmaConfig(TermConfig):
    """Any weight above 0 switches it on; `selfguided.ema_decay` and `ema_ramp` say how it is averaged."""


class Ema(Term):
    """Keeps the average that other terms take as a teacher, and reads nothing of it: `generate.weights: teacher` samples it."""

    name = "ema"
    version = 1
    config = EmaConfig
    agrees_with = frozenset({"order", "sequence"})
    teacher = TeacherReads()
