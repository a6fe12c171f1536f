"""ST-AR's stages, each declared once in a light file of its name: what it reads, what it makes, what it costs, what it may share, and
where its sections of a run and its code are. This list is all that knows them all; the platform gets it by name (`star.spec.builtin`).

A new stage is a file here, its sections in `star/pipeline/config`, its code in `star/stages`, and its name in `STAGES`.
"""

from __future__ import annotations

from star.pipeline.attention import ATTENTION
from star.pipeline.dataset import DATASET
from star.pipeline.encode import ENCODE
from star.pipeline.generate import GENERATE
from star.pipeline.invariance import INVARIANCE
from star.pipeline.probe import PROBE
from star.pipeline.reference import REFERENCE
from star.pipeline.score import SCORE
from star.pipeline.tokenizer import TOKENIZER
from star.pipeline.train import TRAIN
from star.spec.builtin import Pipeline

STAGES = {
    stage.name: stage
    for stage in (DATASET, TOKENIZER, ENCODE, TRAIN, REFERENCE, GENERATE, SCORE, PROBE, ATTENTION, INVARIANCE)
}

PIPELINE = Pipeline(
    STAGES,
    targets=("score", "probe"),
    runs="star.pipeline.config:RUNS",
    renamed={
        "optim.until": "optim.stop_at_step",
        "selfguided.lone_factor": "selfguided.single_contrastive_scale",
    },
)
