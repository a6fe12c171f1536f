"""ST-AR's stages. Each is declared once, in a light file of its name: what it reads, makes and costs, how wide its jobs
may be, and where its sections of a run and its code are. Only this list knows all stages; the platform gets it by name
(`star.spec.builtin`).

To add a stage: declare it in a file here, put its sections into `star/pipeline/config` and its code into `star/stages`,
and add it to `STAGES`.
"""

from __future__ import annotations

from star.pipeline.attention import ATTENTION
from star.pipeline.dataset import DATASET
from star.pipeline.encode import ENCODE
from star.pipeline.features import FEATURES
from star.pipeline.floor import FLOOR
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
    for stage in (
        *(DATASET, TOKENIZER, ENCODE, FEATURES, TRAIN),
        *(REFERENCE, GENERATE, SCORE, FLOOR, PROBE, ATTENTION, INVARIANCE),
    )
}

PIPELINE = Pipeline(
    STAGES,
    targets=("score", "floor", "probe"),
    runs="star.pipeline.config:RUNS",
    renamed={
        "optim.until": "optim.stop_at_step",
        "selfguided.lone_factor": "selfguided.single_contrastive_scale",
    },
)
