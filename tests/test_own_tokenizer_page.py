"""docs/own-tokenizer.md, followed to the letter; what is said of a tokenizer that breaks its contract; one that is loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers import DATA, ROOT, page_of_docs, star_exp

PAGE = (ROOT / "docs" / "own-tokenizer.md").read_text()
RUN = ("study/tokenizers.yaml", "--profile", "tiny", "--plain")


@pytest.fixture(scope="module")
def folder(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page's files, and the images where it says; the experiment was run."""
    path = page_of_docs(PAGE, tmp_path_factory.mktemp("page"))
    done = star_exp("run", *RUN, home=path / "runs", cwd=path)
    assert done.returncode == 0 and "all done: 14 jobs computed" in done.stdout, done.stdout + done.stderr
    return path


def jobs(folder: Path, stage: str) -> dict[str, Path]:
    """Name of the tokenizer -> job's folder."""
    found = {}
    for path in (folder / "runs" / "jobs").glob(f"{stage}-*"):
        spec = json.loads((path / "job.json").read_text())["spec"]
        found[spec["tokenizer"]["name"]] = path
    return found


def test_codes_and_images_are_its_own(folder: Path) -> None:
    tokenizers, stores = jobs(folder, "tokenizer"), jobs(folder, "encode")
    centres = torch.load(tokenizers["patches"] / "out" / "vq.pt")["centres"]
    assert centres.shape == (32, 16)
    told = json.loads((tokenizers["patches"] / "result.json").read_text())["metrics"]
    assert told["psnr"] > json.loads((tokenizers["vq"] / "result.json").read_text())["metrics"]["psnr"] > 5
    steps = [json.loads(line) for line in (tokenizers["patches"] / "metrics.jsonl").read_text().splitlines()]
    distances = [line["metrics"]["distance"] for line in steps]
    assert len(distances) == 10 and distances[-1] < distances[0]
    codes = np.load(stores["patches"] / "out" / "train" / "codes.npy")
    assert codes.shape == (400, 10, 49) and codes.max() < 32 and len(np.unique(codes)) > 10
    made = np.load(jobs(folder, "generate")["patches"] / "out" / "images.npy")[:1].astype(np.float32)
    patches = torch.nn.functional.unfold(torch.from_numpy(made).permute(0, 3, 1, 2) / 127.5 - 1, 4, stride=4)[0].T
    assert torch.cdist(patches, centres).min(1).values.max() < 0.05, "each patch of an image is a centre"


def test_our_row_is_the_run_that_it_is_elsewhere(folder: Path) -> None:
    plans = [
        json.loads(star_exp("plan", file, "--profile", "tiny", "--json", home=folder / "runs", cwd=folder).stdout)
        for file in (RUN[0], str(ROOT / "tests" / "tiny.yaml"))
    ]
    keys = [{(job["stage"], job["key"]) for job in found["jobs"]} for found in plans]
    ours = {run["label"]: set(run["stages"].items()) for run in plans[0]["runs"]}["VQ"]
    assert {(stage, key) for stage, key in ours if stage in ("tokenizer", "encode", "train")} <= keys[1]


@pytest.mark.parametrize(
    "old, new, expected",
    [
        (".argmin(-1)", ".argmin(-1)[:, :5]", "encode gave shape"),
        (".argmin(-1)", ".min(-1).values", "and type torch.float32 for"),
        (".argmin(-1)", ".argmin(-1) + 30", "tokenizer.codebook_size: 32, but patches gave codes from 30 to"),
        (
            "stride=self.side)\n\n    def fit",
            "stride=self.side)[:, :, 1:]\n\n    def fit",
            "decode gave images of shape",
        ),
    ],
)
def test_what_breaks_the_contract_is_said(folder: Path, tmp_path: Path, old: str, new: str, expected: str) -> None:
    study = shutil.copytree(folder / "study", tmp_path / "study", symlinks=True)
    text = (study / "my_tokenizer.py").read_text()
    assert old in text
    (study / "my_tokenizer.py").write_text(text.replace(old, new))
    home = tmp_path / "home"
    (home / "data").mkdir(parents=True)
    (home / "data" / "fashion-mnist").symlink_to(DATA)
    done = star_exp("run", *RUN, "--rows", "patches", home=home, cwd=tmp_path)
    assert done.returncode == 1 and expected in done.stderr and "DataError" in done.stderr, done.stdout + done.stderr


def test_one_that_was_trained_elsewhere_is_loaded(folder: Path, tmp_path: Path) -> None:
    job, file = jobs(folder, "tokenizer")["patches"], tmp_path / "centres.pt"
    key = job.name.partition("-")[2]
    done = star_exp("weights", "export", key, "--out", str(file), home=folder / "runs")
    assert done.returncode == 0, done.stderr
    study = folder / "study" / "loaded.yaml"
    text = (folder / "study" / "tokenizers.yaml").read_text()
    study.write_text(
        text.replace("experiment: tokenizers", "experiment: loaded").replace("weights: null", f"weights: {file}")
    )
    ran = star_exp("run", "study/loaded.yaml", *RUN[1:], "--rows", "patches", home=folder / "runs", cwd=folder)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found = [json.loads(path.read_text()) for path in (folder / "runs" / "jobs").glob("tokenizer-*/result.json")]
    assert len(found) == 3 and len({one["metrics"]["mse"] for one in found}) == 2, "the same centres"


def test_weights_of_another_tokenizer_are_refused(tmp_path: Path) -> None:
    """The default profile names a tokenizer for the VQ row; the other row has to take it away, as the page's does."""
    path = page_of_docs(PAGE, tmp_path)
    file = path / "study" / "tokenizers.yaml"
    file.write_text(file.read_text().replace("name: patches, weights: null,", "name: patches,"))
    done = star_exp("plan", "study/tokenizers.yaml", home=path / "runs", cwd=path)
    assert done.returncode == 2 and "star:fashion-8x8 is a VQ model, and the tokenizer here is patches" in done.stderr
