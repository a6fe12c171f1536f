"""How large the weights are: what comes after a training."""

import json
import sys

import numpy as np

weights, results = sys.argv[1:]
with np.load(weights) as arrays:
    norm = float(np.sqrt(sum((array**2).sum() for array in arrays.values())))
with open(results, "w") as file:
    json.dump({"norm": norm}, file)
