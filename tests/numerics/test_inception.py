"""FID's network: layer by layer what torch-fidelity computes, its images resized as TensorFlow resizes them.

golden/inception_golden.npz holds what torch-fidelity 0.4.0's network and TensorFlow 2.21's `resize_bilinear` returned.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from star.data import inception_file
from star.errors import DataError
from star.evaluate.features import activations, prepared
from star.evaluate.inception import InceptionV3, load_inception
from star.evaluate.resize import tensorflow_bilinear
from tests.numerics.inception_weights import seeded_weights

GOLDEN = np.load(Path(__file__).parent / "golden" / "inception_golden.npz")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(seeded_weights(), path)
    return path


@pytest.fixture(autouse=True)
def _known(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file of this test in place of the published one."""
    monkeypatch.setattr(inception_file, "INCEPTION_SHA256", hashlib.sha256(weights.read_bytes()).hexdigest())


def test_features_and_probabilities_are_the_ports(weights: Path) -> None:
    images = np.random.RandomState(1).randint(0, 256, (2, 3, 64, 80)).astype(np.uint8).transpose(0, 2, 3, 1)
    network = prepared(load_inception(weights))
    (made,) = activations(network, [images], torch.device("cpu"))
    assert made.pooled.shape == (2, 2048) and made.spatial.shape == (2, 2023) and made.probabilities.shape == (2, 1008)
    np.testing.assert_allclose(made.pooled[:, ::16], GOLDEN["pooled"], atol=1e-5)
    np.testing.assert_allclose(made.spatial[:, ::13], GOLDEN["spatial"], atol=1e-5)
    np.testing.assert_allclose(made.probabilities[:, ::8], GOLDEN["probabilities"], atol=1e-8)


@pytest.mark.parametrize("size", ["28x28", "37x50", "256x256", "512x384"])
def test_the_resize_is_tensorflows(size: str) -> None:
    height, width = map(int, size.split("x"))
    images = np.random.RandomState(height).randint(0, 256, (1, height, width, 3)).astype(np.uint8)
    found = tensorflow_bilinear(torch.from_numpy(images).permute(0, 3, 1, 2), 299).permute(0, 2, 3, 1)
    np.testing.assert_allclose(found[:, ::13, ::17], GOLDEN[f"resize_{size}"], atol=1e-4)  # of 255


def test_grey_images_are_as_repeated_ones(weights: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (1, 28, 28, 1), dtype=np.uint8)
    network = prepared(load_inception(weights))
    (one,), (three,) = (activations(network, [x], torch.device("cpu")) for x in (grey, np.repeat(grey, 3, axis=3)))
    torch.testing.assert_close(one.pooled, three.pooled)


def test_only_the_published_file_is_taken(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert inception_file.INCEPTION_SHA256[:8] == inception_file.INCEPTION_FILE.split("-")[-1].removesuffix(".pth")
    with pytest.raises(DataError, match="another network's FID is not FID"):
        load_inception(weights)
    with pytest.raises(DataError, match="weights fetch inception"):
        load_inception(tmp_path / "absent.pth")
    target = tmp_path / "kept.pth"
    with pytest.raises(DataError, match="is not pt_inception"):
        inception_file.inception(target, weights)
    assert not list(tmp_path.iterdir()), "nothing is left of a refused file"


def test_the_file_is_fetched_from_a_folder_once(weights: Path, tmp_path: Path) -> None:
    folder, target = tmp_path / "source", tmp_path / "home" / "kept.pth"
    folder.mkdir()
    (folder / inception_file.INCEPTION_FILE).write_bytes(weights.read_bytes())
    assert inception_file.inception(target, folder) == str(folder)
    assert inception_file.inception(target, folder) == "already there"
    assert target.read_bytes() == weights.read_bytes()
    target.write_bytes(b"damaged")
    with pytest.raises(DataError, match="is not pt_inception"):
        inception_file.inception(target)


def test_the_network_has_the_published_size() -> None:
    """95,628,359 bytes of file are 23.9 M float32 numbers and their names."""
    count = sum(value.numel() for value in InceptionV3().state_dict().values())
    assert 95_628_359 - 120_000 < 4 * count < 95_628_359
