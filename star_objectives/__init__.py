"""Published training objectives beside ST-AR, as terms of the objective: `plugins: [objectives]` in an experiment.

They keep the backbone and its sampling. Each is one file, on the contract that users' own terms have (docs/own-loss.md).
"""

from .align import Align
from .cluster import Cluster
from .coarse import Coarse
from .codebook import Codebook
from .ema import Ema
from .foresight import Foresight
from .mtp import Mtp
from .noise import Noise
from .order import Order
from .registers import Registers
from .tcr import Tcr

__all__ = ["Align", "Cluster", "Coarse", "Codebook", "Ema", "Foresight", "Mtp", "Noise", "Order", "Registers", "Tcr"]
