"""What the docs show, done."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from star.data.codes import CodeStore, distinct_views
from star.spec.load_search import load_search
from tests.helpers import ROOT, page_of_docs, star_exp


def test_the_foreign_transformer_of_the_docs_learns(home: Path) -> None:
    """The example as it stands, on codes of real images: every loss falls or stays, and the teacher follows."""
    text = (ROOT / "docs" / "losses.md").read_text()
    code = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]
    assert len([line for line in code.splitlines() if line.strip()]) <= 32, "the example has grown"
    store = CodeStore(next(home.glob("jobs/encode-*")) / "out" / "train")
    rng = np.random.default_rng(0)
    seen: list[dict[str, float]] = []

    def loader():  # type: ignore[no-untyped-def]
        for step in range(150):
            if step:
                seen.append({name: value.item() for name, value in scope["losses"].items()})
            images = rng.choice(len(store), 16, replace=False)
            codes = store.gather(images, distinct_views(0, step, 16, 2, store.num_views))
            yield torch.from_numpy(codes), torch.from_numpy(store.labels[images])

    torch.manual_seed(0)
    scope = {"loader": loader()}
    exec(code, scope)
    assert set(seen[0]) == {"loss", "ar_loss", "mim_loss", "inter_step_loss", "inter_view_loss"}
    first, last = (np.mean([entry["ar_loss"] for entry in part]) for part in (seen[:10], seen[-10:]))
    assert last < first - 1
    contrast = [np.mean([entry["inter_view_loss"] for entry in part]) for part in (seen[:10], seen[-10:])]
    assert contrast[1] < contrast[0] - 0.1
    objective = scope["objective"]
    moved = objective.teacher.copy.output.weight - objective.student.output.weight
    assert 0 < moved.abs().max() < 0.1


@pytest.mark.parametrize("page", sorted(path.name for path in (ROOT / "docs").glob("*.md")))
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / "docs" / page).read_text()):
        assert target.startswith("http") or (ROOT / "docs" / target).exists(), target


def test_the_search_of_the_docs_is_one(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "search.md").read_text()
    (tmp_path / "search.yaml").write_text(re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)[0])
    (tmp_path / "profiles").symlink_to(ROOT / "experiments" / "profiles")
    search = load_search(tmp_path / "search.yaml")
    assert search.rungs(search.default) == [400] and len(search.spec.space) == 5


@pytest.mark.parametrize("file", sorted(path.name for path in (ROOT / "experiments").glob("search_*.yaml")))
def test_every_search_here_can_begin(file: str) -> None:
    assert load_search(ROOT / "experiments" / file).spec.trials >= 16


@pytest.mark.parametrize("page", ["objectives.md", "own-loss.md", "own-metric.md", "own-tokenizer.md"])
def test_the_studies_of_pages_can_be_planned_as_they_are(page: str, tmp_path: Path) -> None:
    """At the default profile, as a reader has it, with profiles in `experiments` alone: their own tests run them at the tiny one."""
    folder = page_of_docs((ROOT / "docs" / page).read_text(), tmp_path)
    shutil.rmtree(folder / "study" / "profiles")
    (folder / "experiments").symlink_to(ROOT / "experiments")
    for file in (folder / "study").glob("*.yaml"):
        done = star_exp("plan", f"study/{file.name}", home=folder / "runs", cwd=folder)
        assert done.returncode == 0, (file.name, done.stderr)


def test_the_studies_on_images_of_ones_own_can_be_planned_as_they_are(tmp_path: Path) -> None:
    folder = page_of_docs((ROOT / "docs" / "data.md").read_text().replace("/my/", f"{tmp_path}/"), tmp_path)
    shutil.rmtree(folder / "study" / "profiles")
    (folder / "experiments").symlink_to(ROOT / "experiments")
    pixels = np.random.default_rng(0).integers(0, 256, (70, 64, 64, 3), dtype=np.uint8)
    for i, image in enumerate(pixels):
        (tmp_path / "images" / f"class {i % 7}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / "images" / f"class {i % 7}" / f"{i}.png")
    (tmp_path / "arrays").mkdir()
    for split in ("train", "test"):
        np.savez(tmp_path / "arrays" / f"{split}.npz", x=pixels, y=np.arange(len(pixels)) % 3)
    for file, said in (
        ("mine", "7 classes (class 0, class 1, ..., class 6); 65 images to train on"),
        ("arrays", "3 classes; 70 images to train on"),
    ):
        done = star_exp("plan", f"study/{file}.yaml", home=folder / "runs", cwd=folder)
        assert done.returncode == 0 and said in done.stdout and "missing" not in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("page", ["data.md", "homes.md"])
def test_every_test_that_is_named_is_there(page: str) -> None:
    known = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(), re.M)
    }
    text = (ROOT / "docs" / page).read_text()
    named = {name for name in re.findall(r"\b(test_\w+)\b", text) if not list((ROOT / "tests").rglob(f"{name}.py"))}
    assert len(named) > 8 and named <= known | {"test_fraction", "test_images", "test_split"}, named - known
    assert all((ROOT / path).exists() for path in re.findall(r"\btests/[\w/]+\.py", text))
