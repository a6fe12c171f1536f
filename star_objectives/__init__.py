"""Published training objectives beside ST-AR, as terms of the objective: `plugins: [objectives]` in an experiment.

They keep the backbone and its sampling. Each is one file, on the contract that users' own terms have (docs/own-loss.md).
"""

from .cluster import Cluster
from .codebook import Codebook
from .ema import Ema
from .foresight import Foresight
from .mtp import Mtp
from .noise import Noise
from .tcr import Tcr

__all__ = ["Cluster", "Codebook", "Ema", "Foresight", "Mtp", "Noise", "Tcr"]
