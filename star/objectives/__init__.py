"""The training objective: a list of terms, each with its random draws, its targets and its losses."""

from star.objectives.backbone import Arranged, Backbone, Features, Pass, StudentOutput
from star.objectives.batch import Batch, ClassDropout, draw_batch
from star.objectives.objective import Objective
from star.objectives.projector import projector
from star.objectives.st_ar import st_ar
from star.objectives.term import TeacherReads, Term
from star.pipeline.config.selfguided import SelfGuidedSpec
from star.pipeline.config.setting import Setting
from star.spec.base import FieldError, LayerRef
from star.spec.plugin_parts import TermConfig

__all__ = [
    "Arranged",
    "Backbone",
    "Batch",
    "ClassDropout",
    "Features",
    "FieldError",
    "LayerRef",
    "Objective",
    "Pass",
    "SelfGuidedSpec",
    "Setting",
    "StudentOutput",
    "TeacherReads",
    "Term",
    "TermConfig",
    "draw_batch",
    "projector",
    "st_ar",
]
