"""SSIM against its formula window by window, and the stage `floor` against what it is made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch

from star.evaluate.features import activations, load_extractor
from star.evaluate.ssim import ssim
from star.rundir import read_json
from star.stages.floor import _Likeness
from star.tokenizer.load import load_vq
from tests.helpers import DATA, ROOT, star_exp, tiny


def by_hand(a: np.ndarray, b: np.ndarray) -> float:
    """Wang et al., equations 13 to 16, for one grey image: each window on its own, weights of a Gaussian of 1.5 pixels."""
    y, x = np.mgrid[-5:6, -5:6]
    weights = np.exp(-(x**2 + y**2) / (2 * 1.5**2))
    weights /= weights.sum()
    found = []
    for top in range(a.shape[0] - 10):
        for left in range(a.shape[1] - 10):
            p, q = a[top : top + 11, left : left + 11], b[top : top + 11, left : left + 11]
            mp, mq = (weights * p).sum(), (weights * q).sum()
            vp, vq = (weights * (p - mp) ** 2).sum(), (weights * (q - mq) ** 2).sum()
            cov = (weights * (p - mp) * (q - mq)).sum()
            found.append((2 * mp * mq + 1e-4) * (2 * cov + 9e-4) / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4)))
    return float(np.mean(found))


def test_ssim_is_the_papers() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 1, 14, 17)), rng.random((2, 1, 14, 17))
    b[1] = 0.8 * a[1] + 0.1
    found = ssim(torch.from_numpy(a), torch.from_numpy(b))
    assert found.tolist() == [pytest.approx(by_hand(a[i, 0], b[i, 0])) for i in range(2)]
    assert ssim(torch.from_numpy(a), torch.from_numpy(a)).tolist() == [pytest.approx(1.0)] * 2
    colours = ssim(torch.from_numpy(a.reshape(1, 2, 14, 17)), torch.from_numpy(b.reshape(1, 2, 14, 17)))
    assert colours.item() == pytest.approx(found.mean().item()), "channels count alike"
    with pytest.raises(ValueError, match="smaller than the window"):
        ssim(torch.zeros(1, 1, 10, 30), torch.zeros(1, 1, 10, 30))


def test_images_smaller_than_the_window_have_no_ssim() -> None:
    likeness = _Likeness()
    likeness.add(np.zeros((2, 8, 8, 1), np.uint8), np.full((2, 8, 8, 1), 51, np.uint8))
    assert likeness.result() == {"psnr": pytest.approx(10 * np.log10(25))}
    likeness.add(np.zeros((1, 8, 8, 1), np.uint8), np.zeros((1, 8, 8, 1), np.uint8))
    assert likeness.result() == {"psnr": pytest.approx(10 * np.log10(25 * 1.5))}, "over all pixels"


def test_the_stage_scores_what_the_tokenizer_makes_of_held_out_images(home: Path, tmp_path: Path) -> None:
    """Against SciPy's matrix root on features of images that are encoded and decoded here."""
    file = tmp_path / "tiny.yaml"
    file.write_text((ROOT / "tests" / "tiny.yaml").read_text().replace("[score, probe]", "[floor, score, probe]"))
    (tmp_path / "profiles").symlink_to(ROOT / "tests" / "profiles")
    done = star_exp("run", file, "--plain", "--set", "floor.num_images=150", "--rows", "*0.25", home=home)
    assert done.returncode == 0, done.stdout + done.stderr
    (job,) = (home / "jobs").glob("floor-*")
    found = read_json(job / "result.json")["metrics"]
    report = (home / "reports" / "tiny" / "tiny" / "report.md").read_text()
    assert f"| *floor: reconstructions* | *{found['efficientnet-lite0/frechet_distance']:.2f}* |" in report
    assert f"| *reconstructions of crops* | *{found['efficientnet-lite0/crops_frechet_distance']:.2f}* |" in report
    assert "reconstructions of 150 held-out images" in report
    spec = tiny()
    folder = {name: next((home / "jobs").glob(f"{name}-*")) / "out" for name in ("dataset", "tokenizer", "reference")}
    pixels = np.fromfile(DATA / "t10k-images-idx3-ubyte", np.uint8, offset=16).reshape(-1, 28, 28, 1)
    real = pixels[np.load(folder["dataset"] / "test.npz")["indices"][:150]]
    vq = load_vq(spec.tokenizer, 1, folder["tokenizer"] / "vq.pt")

    def through(images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            decoded = vq.decode(vq.encode(torch.from_numpy(images.astype(np.float32)).permute(0, 3, 1, 2) / 127.5 - 1))
        made: np.ndarray = ((decoded.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        return made

    rebuilt = through(real)
    # crop range 1.15: 28 pixels of 32, at a corner or the middle, perhaps mirrored, as `ten_crop` orders them
    larger, places = np.pad(real, ((0, 0), (2, 2), (2, 2), (0, 0))), [(0, 0), (0, 4), (4, 0), (4, 4), (2, 2)]
    views = [view[:, y : y + 28, x : x + 28] for view in (larger, larger[:, :, ::-1]) for y, x in places]
    views = [views[i] for i in (0, 1, 2, 3, 4, 6, 5, 8, 7, 9)]  # Fashion-MNIST's order
    batches, draws = [50, 50, 50], np.random.default_rng((0, 7))
    drawn = np.concatenate([draws.integers(10, size=size) for size in batches])
    crops = through(np.ascontiguousarray(np.stack(views, 1)[np.arange(150), drawn]))
    known = np.load(folder["reference"] / "reference.npz")
    network = load_extractor("efficientnet-lite0", spec.score.input_size, tmp_path, torch.device("cpu"))
    for who, images in (("", rebuilt), ("crops_", crops), ("real_", real)):
        points = torch.cat([one.pooled for one in activations(network, [images], torch.device("cpu"))]).double().numpy()
        root = scipy.linalg.sqrtm(np.cov(points.T) @ known["sigma"])
        trace = np.trace(np.cov(points.T)) + np.trace(known["sigma"]) - 2 * np.trace(root.real)
        distance = float(((points.mean(0) - known["mu"]) ** 2).sum() + trace)
        assert found[f"efficientnet-lite0/{who}frechet_distance"] == pytest.approx(distance, rel=1e-3)
    error = np.square(rebuilt / 255.0 - real / 255.0).mean()
    assert found["psnr"] == pytest.approx(10 * np.log10(1 / error))
    similar = [by_hand(a[..., 0] / 255, b[..., 0] / 255) for a, b in zip(rebuilt, real, strict=True)]
    assert found["ssim"] == pytest.approx(np.mean(similar))
