"""`star-exp evaluate` and `reference` on real images: what is printed, kept, read again and refused."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from star import score_files
from star.data import inception_file
from star.data.sources import FashionMNIST
from star.score_files import Request
from tests.helpers import star_exp
from tests.numerics.inception_weights import seeded_weights
from tests.services import until

OFFLINE = ("--extractor", "efficientnet-lite0", "--input-size", "32")


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Path:
    """Two halves of 240 real images, as an archive and as a folder, and noise."""
    folder = tmp_path_factory.mktemp("sets")
    real = FashionMNIST(images, "train").images
    np.savez(folder / "first.npz", arr_0=real[:240])
    (folder / "second").mkdir()
    for i, image in enumerate(real[240:480]):
        Image.fromarray(image[..., 0]).save(folder / "second" / f"{i:03d}.png")
    np.save(folder / "noise.npy", np.random.default_rng(0).integers(0, 256, (240, 28, 28, 3), dtype=np.uint8))
    return folder


def evaluated(*arguments: str | Path, home: Path) -> dict[str, Any]:
    done = star_exp("evaluate", *arguments, *OFFLINE, "--json", home=home)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_real_images_are_near_real_ones(sets: Path, tmp_path: Path) -> None:
    real = evaluated(sets / "first.npz", sets / "second", home=tmp_path)
    noise = evaluated(sets / "first.npz", sets / "noise.npy", home=tmp_path)
    assert (real["extractor"], real["reference"]["images"], real["samples"]["images"]) == (
        "efficientnet-lite0@32",
        240,
        240,
    )
    assert real["metrics"]["frechet_distance"] < 0.3 * noise["metrics"]["frechet_distance"]
    assert real["metrics"]["precision"] > 0.6 and real["metrics"]["recall"] > 0.6
    assert noise["metrics"]["recall"] < real["metrics"]["recall"]
    assert "samples: grey images are repeated to RGB" in real["notes"]
    assert "samples: 240 images for 1280 features: distances are biased upwards" in real["notes"]


def test_another_networks_numbers_carry_its_name(sets: Path, tmp_path: Path) -> None:
    done = star_exp("evaluate", sets / "first.npz", sets / "first.npz", *OFFLINE, home=tmp_path)
    names, values = zip(*(line.split(": ") for line in done.stdout.splitlines()), strict=True)
    assert names == tuple(f"{name} (efficientnet-lite0@32)" for name in ("IS", "FD", "sFD", "Precision", "Recall"))
    assert "FID" not in done.stdout
    assert abs(float(values[1])) < 1e-6 and values[3:] == ("1.0", "1.0")


def test_a_reference_is_made_once(sets: Path, tmp_path: Path) -> None:
    first = evaluated(sets / "first.npz", sets / "second", home=tmp_path)
    (kept,) = (tmp_path / "references").glob("*.npz")
    changed = kept.stat().st_mtime_ns
    assert evaluated(sets / "first.npz", sets / "second", home=tmp_path)["metrics"] == first["metrics"]
    assert kept.stat().st_mtime_ns == changed
    kept.write_bytes(b"damaged")
    again = evaluated(sets / "first.npz", sets / "second", home=tmp_path)
    assert again["metrics"] == first["metrics"] and any("made again" in note for note in again["notes"])
    assert set(first["notes"]) < set(again["notes"])
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "references").write_text("no folder")
    unkept = evaluated(sets / "first.npz", sets / "second", home=tmp_path / "other")
    assert unkept["metrics"] == first["metrics"] and any("could not be kept" in note for note in unkept["notes"])


def test_a_reference_file_gives_the_same_numbers(sets: Path, tmp_path: Path) -> None:
    made = star_exp("reference", sets / "first.npz", tmp_path / "ref.npz", *OFFLINE, home=tmp_path)
    assert made.returncode == 0, made.stderr
    assert "efficientnet-lite0@32 moments of 240 images, 240 images" in made.stdout
    with np.load(tmp_path / "ref.npz") as file:
        shapes = {name: file[name].shape for name in file.files}
    assert shapes == {
        "mu": (1280,), "sigma": (1280, 1280), "mu_s": (28,), "sigma_s": (28, 28), "arr_0": (240, 28, 28, 3), "extractor": (),
    }  # fmt: skip
    direct = evaluated(sets / "first.npz", sets / "second", home=tmp_path)["metrics"]
    given = evaluated(tmp_path / "ref.npz", sets / "second", home=tmp_path)["metrics"]
    assert given == pytest.approx(direct, rel=1e-9)


def test_moments_alone_give_a_distance_alone(sets: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "mu.npz", mu=rng.normal(size=1280), sigma=np.eye(1280), extractor="efficientnet-lite0@32")
    found = evaluated(tmp_path / "mu.npz", sets / "second", home=tmp_path)
    assert found["metrics"]["frechet_distance"] > 0 and found["metrics"]["precision"] is None
    assert any("nothing for sFD (efficientnet-lite0@32), Precision" in note for note in found["notes"])


def request(home: Path, reference: Path, other: Path, write: bool = False, **changes: Any) -> str:
    """What `star-exp evaluate` (or `reference`, which writes `other`) asks of the process that computes."""
    asked = Request(
        reference=str(reference), samples=None if write else str(other), write=str(other) if write else None,
        extractor="efficientnet-lite0", weights=str(home / "weights.pth"), input_size=32, neighbours=3, batch_size=50,
        device="cpu", threads=1, cache=str(home / "cache"), as_json=False, parent=os.getppid(),
    )  # fmt: skip
    return json.dumps(asdict(asked) | changes)


def test_mistakes_are_one_sentence(sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "two.npy", np.zeros((2, 8, 8, 3), dtype=np.uint8))
    np.save(tmp_path / "ones.npy", np.ones((9, 8, 8, 3), dtype=np.uint8))
    np.savez(tmp_path / "inception.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    np.savez(tmp_path / "nan.npz", mu=np.full(4, np.nan), sigma=np.eye(4))
    np.savez(tmp_path / "other size.npz", mu=np.zeros(1280), sigma=np.eye(1280), extractor="efficientnet-lite0@224")
    name = {"extractor": "efficientnet-lite0@32"}
    np.savez(tmp_path / "negative.npz", mu=np.zeros(1280), sigma=-np.eye(1280), **name)
    np.savez(tmp_path / "skewed.npz", mu=np.zeros(1280), sigma=np.triu(np.ones((1280, 1280))), **name)
    np.savez(tmp_path / "small.npz", mu=np.zeros(512), sigma=np.eye(512), **name)
    np.savez(tmp_path / "far.npz", mu=np.full(1280, 1e200), sigma=np.eye(1280), **name)
    (tmp_path / "two.npz").write_bytes((tmp_path / "two.npy").read_bytes())
    first, second = sets / "first.npz", sets / "second"
    inception = {"extractor": "inception"}
    cases: list[tuple[Path, Path, dict[str, Any], str]] = [
        (first, tmp_path / "two.npy", {}, "2 images are too few"),
        (tmp_path / "two.npy", second, {}, "2 images are too few"),
        (tmp_path / "inception.npz", second, {}, "its moments are of inception"),
        (tmp_path / "nan.npz", second, {}, "not finite numbers"),
        (tmp_path / "other size.npz", second, {}, "moments are of efficientnet-lite0@224"),
        (tmp_path / "two.npz", second, {}, "cannot be read as a reference file"),
        (tmp_path / "negative.npz", second, {}, "negative variances"),
        (tmp_path / "skewed.npz", second, {}, "not symmetric"),
        (tmp_path / "far.npz", second, {}, "too far apart"),
        (tmp_path / "small.npz", second, {}, "its pooled moments are of 512 features, those of efficientnet-lite0@32"),
        (tmp_path / "ones.npy", second, {}, "no value above 1, and images are uint8 from 0 to 255"),
        (tmp_path / "absent.npz", second, {}, "is not there"),
        (first, second, inception, "star-exp weights fetch inception"),
        (first, second, inception | {"weights": str(sets / "noise.npy")}, "another network's FID is not FID"),
        (first, tmp_path / "folder.npz", {"write": True}, "is a folder"),
        (first, tmp_path / "two.npy" / "x.npz", {"write": True}, "two.npy"),
        (first, first, {"write": True}, "what the images are read from"),
        (second, second / "x.npz", {"write": True}, "what the images are read from"),
        (first, Path("/proc/x.npz"), {"write": True}, "/proc/"),
    ]
    if not torch.cuda.is_available():
        cases.append((first, second, {"device": "cuda"}, "no usable GPU"))
    (tmp_path / "folder.npz").mkdir()
    for reference, other, changes, message in cases:
        text = request(tmp_path, reference, other, **changes)
        assert score_files.main(text) == 2, text
        said = capsys.readouterr()
        assert message in said.err and not said.out, (text, said)
        assert [line[:6] for line in said.err.splitlines()] == ["error:"], said.err


def test_mistakes_in_options_are_one_sentence_too(sets: Path, tmp_path: Path) -> None:
    first, second = sets / "first.npz", sets / "second"
    for command, message in (
        (("evaluate", first, second, *OFFLINE, "--weights", tmp_path), "has its own"),
        (("evaluate", first, second, "--weights", tmp_path / "no.pth"), "no.pth: Inception's weights are not there"),
        (("reference", first, tmp_path / "ref.txt", *OFFLINE), "ends in .npz"),
    ):
        done = star_exp(*command, home=tmp_path)
        assert done.returncode == 2 and message in done.stderr and not done.stdout, done.stderr
        assert [line[:6] for line in done.stderr.splitlines()] == ["error:"], done.stderr


def test_inception_prints_what_adms_evaluator_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With weights that anybody can draw, on a reference file without a name, as ADM's are."""
    torch.save(seeded_weights(), tmp_path / "weights.pth")
    content = (tmp_path / "weights.pth").read_bytes()
    monkeypatch.setattr(inception_file, "INCEPTION_SHA256", hashlib.sha256(content).hexdigest())
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 16, 16, 3), dtype=np.uint8)
    np.savez(tmp_path / "first.npz", arr_0=images[0])
    np.savez(tmp_path / "second.npz", arr_0=images[1])
    inception = {"extractor": "inception", "weights": str(tmp_path / "weights.pth"), "batch_size": 4}
    written = request(tmp_path, tmp_path / "first.npz", tmp_path / "made.npz", write=True, **inception)
    assert score_files.main(written) == 0
    with np.load(tmp_path / "made.npz") as made:
        assert made["mu"].shape == (2048,) and made["sigma_s"].shape == (2023, 2023)
        np.savez(tmp_path / "adm.npz", **{name: made[name] for name in ("mu", "sigma", "mu_s", "sigma_s", "arr_0")})
    capsys.readouterr()
    against = request(tmp_path, tmp_path / "adm.npz", tmp_path / "second.npz", **inception)
    assert score_files.main(against) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["Inception Score", "FID", "sFID", "Precision", "Recall"]
    assert all(float(line.split(": ")[1]) >= 0 for line in lines)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_both_processes(number: signal.Signals, sets: Path, tmp_path: Path) -> None:
    """Whoever gets it, and also while torch is being imported."""
    command = [sys.executable, "-m", "star.cli", "evaluate", sets / "first.npz", sets / "second", "--home", tmp_path]
    options = ["--extractor", "efficientnet-lite0", "--input-size", "512"]
    process = subprocess.Popen(
        [*map(str, command), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    children: list[psutil.Process] = []

    def importing() -> bool:
        children[:] = psutil.Process(process.pid).children()
        return any("libtorch" in found.path for child in children for found in child.memory_maps())

    until(importing, "torch is being imported")
    process.send_signal(number)
    _, said = process.communicate(timeout=200)
    assert process.returncode == (130 if number == signal.SIGINT else -signal.SIGTERM)
    assert "Traceback" not in said
    psutil.wait_procs(children, timeout=200)
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)
