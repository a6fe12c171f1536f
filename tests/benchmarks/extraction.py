"""Is feature extraction bound by the network alone? `python -m tests.benchmarks.extraction [images] [rounds]`

From a folder of 256 x 256 PNG files (Fashion-MNIST, enlarged) to moments, against the network's layers on tensors that are
already there, in turn. One thread computes; a second core, where there is one, reads and decodes meanwhile.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image

from star.data.image_sets import open_images
from star.data.sources import FashionMNIST
from star.evaluate.features import EfficientNetLite0, prepared
from star.evaluate.inception import InceptionV3
from star.evaluate.statistics import Statistics
from tests.helpers import DATA
from tests.numerics.inception_weights import seeded_weights

BATCH = 25


def main() -> None:
    """Print seconds per image and the ratio for each extractor."""
    count, rounds = (int(text) for text in (sys.argv[1:] + ["100", "3"][len(sys.argv) - 1 :])[:2])
    torch.set_num_threads(1)
    inception = InceptionV3()
    inception.load_state_dict(seeded_weights(), strict=False)
    networks = {"efficientnet-lite0 at 224": (EfficientNetLite0(224), 224), "inception at 299": (inception, 299)}
    sys.stdout.write(
        "| extractor | layers alone, ms/image | from files to moments, ms/image | ratio |\n|---|---:|---:|---:|\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        for i, image in enumerate(FashionMNIST(DATA, "train").images[:count]):
            picture = Image.fromarray(image[..., 0]).resize((256, 256)).convert("RGB")
            picture.save(Path(folder) / f"{i:05d}.png")
        for name, (network, side) in networks.items():
            prepared(network)
            alone, whole = [], []
            for _ in range(rounds + 1):  # the first is a warm-up
                alone.append(_layers(network, side, count))
                whole.append(_pipeline(network, Path(folder), count))
            first, second = median(alone[1:]), median(whole[1:])
            sys.stdout.write(f"| {name} | {first:.1f} | {second:.1f} | {second / first:.3f} |\n")


@torch.no_grad()
def _layers(network: torch.nn.Module, side: int, count: int) -> float:
    batch = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (BATCH, 3, side, side)).astype(np.float32))
    batch = batch.to(memory_format=torch.channels_last)
    started = time.perf_counter()
    for _ in range(count // BATCH):
        network.layers(batch)  # type: ignore[operator]
    return (time.perf_counter() - started) / count * 1000


def _pipeline(network: torch.nn.Module, folder: Path, count: int) -> float:
    started = time.perf_counter()
    images = open_images(folder)
    found = Statistics(len(images), count, 5000, torch.device("cpu"))
    found.gather(network, images.batches(BATCH))
    return (time.perf_counter() - started) / count * 1000


if __name__ == "__main__":
    main()
