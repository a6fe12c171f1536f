"""The losses, the model and the training step need torch and pydantic, and nothing of the platform; the losses no Unix."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions

from tests.helpers import ROOT

CODE = """
import sys
class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Nothing())
import torch
import star.objectives, star.model.gpt, star.model.sample, star.tokenizer, star.train.trainer, star_objectives
from star.model.gpt import Features
from star.objectives import ClassDropout, Objective, SelfGuidedSpec, draw_batch, st_ar
terms = st_ar(SelfGuidedSpec(), contrastive_layer=2)
batch = draw_batch(terms, torch.zeros(2, 2, 16).long(), torch.zeros(2).long(), 2, ClassDropout(10, 0.1), torch.Generator())
print("drawn", tuple(batch.codes.shape))
"""


WINDOWS = """
import sys
sys.modules.update(dict.fromkeys(("fcntl", "pwd", "grp", "termios", "resource"), None))
import star.objectives, star.model.gpt, star.model.sample, star.tokenizer
sys.platform = "win32"
import star.cli.main
"""


def test_windows_has_the_losses_and_is_told_where_the_rest_runs() -> None:
    done = subprocess.run([sys.executable, "-c", WINDOWS], cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stderr) == (
        2,
        "star-exp runs on Linux: on Windows use it in WSL, where it is what it is on Linux.\n",
    )


def test_nothing_of_the_platform_is_imported() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {re.split(r"[\[<>=~ ]", line)[0].lower().replace("-", "_") for line in project["dependencies"]}
    of_the_platform = wanted - {"torch", "pydantic", "numpy"}
    blocked = {
        module
        for module, names in packages_distributions().items()
        if of_the_platform.intersection(name.lower().replace("-", "_") for name in names)
    }
    assert {"mlflow", "optuna", "sqlalchemy", "pandas", "yaml"} <= blocked and not blocked & {"torch", "star", "numpy"}
    code = CODE.replace("{blocked}", repr(blocked))
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0 and "drawn (2, 2, 16)" in done.stdout, done.stderr
