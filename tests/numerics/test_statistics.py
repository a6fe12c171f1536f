"""One pass over images: the inception score, what is kept, and that batches, sources and ranks do not matter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from star.errors import DataError
from star.evaluate.features import EfficientNetLite0, activations, prepared, read_ahead
from star.evaluate.inception_score import RunningScore
from star.evaluate.precision_recall import manifold
from star.evaluate.statistics import Reference, Statistics, compare, evenly

CPU = torch.device("cpu")


def scored(probabilities: np.ndarray, split: int, batch: int) -> float:
    running = RunningScore(probabilities.shape[1], split)
    for first in range(0, len(probabilities), batch):
        running.add(torch.from_numpy(probabilities[first : first + batch]), first)
    return running.result()


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 60), st.integers(2, 40), st.integers(1, 25), st.integers(0, 2**31))
def test_the_inception_score_equals_its_formula(count: int, split: int, batch: int, seed: int) -> None:
    """Split by split in the order of the images, the last one short, as ADM's evaluator does it."""
    probabilities = np.random.default_rng(seed).dirichlet(np.full(6, 0.3), size=count)
    scores = []
    for first in range(0, count, split):
        part = probabilities[first : first + split]
        mean = part.mean(0)
        divergence = np.where(part > 0, part * (np.log(np.maximum(part, 1e-300)) - np.log(mean + (mean == 0))), 0)
        scores.append(np.exp(divergence.sum(1).mean()))
    assert scored(probabilities, split, batch) == pytest.approx(np.mean(scores), rel=1e-9)


def test_the_inception_score_at_its_ends() -> None:
    assert scored(np.full((10, 4), 0.25), 100, 3) == pytest.approx(1)
    assert scored(np.eye(4).repeat(3, axis=0), 100, 5) == pytest.approx(4)


@given(st.integers(1, 10_000), st.integers(1, 10_000))
def test_kept_images_are_spread_evenly(total: int, kept: int) -> None:
    """One of each of as many equal parts; all of them where all are kept."""
    rows, parts = evenly(total, kept), min(total, kept)
    assert len(rows) == parts and np.array_equal(rows, evenly(total, kept))
    starts = np.arange(parts + 1) * total // parts
    assert np.all(rows >= starts[:-1]) and np.all(rows < starts[1:])


@pytest.mark.parametrize("kept", [1000, 2000, 2500])
def test_images_whose_classes_take_turns_are_kept_of_all_classes(kept: int) -> None:
    """As `generate.labels: balanced` writes them: every fifth one would be of two classes in ten."""
    counts = np.bincount(evenly(5000, kept) % 10, minlength=10)
    assert counts.min() > 0.7 * kept / 10


class Tiny(torch.nn.Module):
    """A stand-in that is fast: pixels as features."""

    def resized(self, images: torch.Tensor) -> torch.Tensor:
        return images.float()

    def layers(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        flat = x.flatten(1)
        return flat[:, :12], flat[:, 12:16], flat[:, :5].softmax(-1)


IMAGES = np.random.default_rng(0).integers(0, 8, (230, 4, 4, 1), dtype=np.uint8)


def gathered(batch: int, total: int | None = 230, keep: int = 100) -> Statistics:
    found = Statistics(total, keep, 50, CPU)
    found.gather(Tiny(), (IMAGES[i : i + batch] for i in range(0, 230, batch)))
    return found


def test_a_pass_does_not_depend_on_its_batches() -> None:
    first, second = gathered(230), gathered(7)
    np.testing.assert_array_equal(first.pooled.result().covariance, second.pooled.result().covariance)
    assert first.score.result() == pytest.approx(second.score.result(), rel=1e-12)
    expected = IMAGES.reshape(230, -1)[evenly(230, 100), :12]
    np.testing.assert_array_equal(first.points, expected)
    np.testing.assert_array_equal(second.points, expected)


def test_a_generator_of_unknown_length() -> None:
    found, known = gathered(9, total=None, keep=1000), gathered(9, keep=1000)
    np.testing.assert_array_equal(found.points, known.points)
    assert found.score.result() == known.score.result()
    assert len(gathered(9, total=None, keep=20).points) == 20


def test_images_are_brought_to_a_side_first_in_bytes_again() -> None:
    """Shrunk as Pillow does it, whose filter widens with the scale; those that have the side stay as they are."""
    rng = np.random.default_rng(1)
    for height, width in ((11, 11), (7, 10), (4, 9), (9, 4), (4, 4), (2, 3)):
        images = rng.integers(0, 256, (6, height, width, 1), dtype=np.uint8)
        channels = [Image.fromarray(image[..., 0].astype(np.float32)) for image in images]
        shrunk = np.stack([np.asarray(one.resize((4, 4), Image.Resampling.BILINEAR)) for one in channels])
        made = next(activations(Tiny(), [images], CPU, 4)).pooled.numpy()
        np.testing.assert_array_equal(made, np.rint(shrunk).reshape(6, -1)[:, :12].clip(0, 255))
        found = Statistics(6, 6, 50, CPU)
        found.gather(Tiny(), [images], side=4)
        np.testing.assert_array_equal(found.points, made)


def test_splits_without_an_image_do_not_count() -> None:
    probabilities = np.random.default_rng(0).dirichlet(np.full(4, 0.5), size=10)
    late, alone = RunningScore(4, 10), RunningScore(4, 10)
    late.add(torch.from_numpy(probabilities), 30)
    alone.add(torch.from_numpy(probabilities), 0)
    assert late.result() == alone.result() > 1


def test_a_set_against_itself() -> None:
    found = gathered(30, keep=230)
    reference = Reference(found.pooled.result(), found.spatial.result(), manifold(found.points, 3))
    values = compare(reference, found, 3)
    assert values["frechet_distance"] == pytest.approx(0, abs=1e-6)
    assert values["spatial_frechet_distance"] == pytest.approx(0, abs=1e-6)
    assert values["precision"] == values["recall"] == 1
    assert set(compare(Reference(found.pooled.result()), found, 3)) == {"inception_score", "frechet_distance"}


def test_features_do_not_depend_on_the_batch() -> None:
    images = np.random.default_rng(0).integers(0, 256, (7, 28, 28, 1), dtype=np.uint8)
    network = prepared(EfficientNetLite0(64))
    (whole,) = activations(network, [images], CPU)
    parts = [made.pooled for made in activations(network, [images[:3], images[3:]], CPU)]
    assert whole.pooled.shape == (7, 1280) and whole.spatial.shape == (7, 4 * 4 * 7)
    np.testing.assert_allclose(whole.pooled, torch.cat(parts), atol=1e-4)
    np.testing.assert_allclose(whole.probabilities.sum(1), 1, rtol=1e-5)


def test_the_offline_extractor_knows_imagenet() -> None:
    """Its weights are really there: random weights do not tell a bright disc from noise with any confidence."""
    y, x = np.mgrid[:224, :224]
    disc = ((np.hypot(y - 112, x - 112) < 80) * 200 + 20).astype(np.uint8)
    picture = np.stack([disc, disc // 2, disc // 4], axis=-1)[None]
    (made,) = activations(prepared(EfficientNetLite0(224)), [picture], CPU)
    assert made.probabilities.max() > 0.05  # a thousand classes: chance is 0.001


def test_a_feature_that_is_no_number_names_its_image() -> None:
    class Broken(Tiny):
        def layers(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            pooled, spatial, probabilities = super().layers(x)
            return torch.where(x[:, :1, 0, 0] == 3, torch.nan, pooled), spatial, probabilities

    images = IMAGES.copy()
    images[:, 0, 0] = 1
    images[117, 0, 0] = 3
    with pytest.raises(DataError, match="features of image 117"):
        Statistics(230, 50, 50, CPU).gather(Broken(), [images[100:120]], first=100)


def test_reading_ahead_keeps_order_errors_and_stops() -> None:
    taken = []

    def items() -> object:
        for i in range(100):
            taken.append(i)
            yield i

    assert list(read_ahead(items())) == list(range(100))  # type: ignore[arg-type]
    taken.clear()
    some = read_ahead(items())  # type: ignore[arg-type]
    assert next(some) == 0
    some.close()
    assert len(taken) < 10, "nobody asked for the rest"

    def broken() -> object:
        yield 1
        raise ValueError("disk")

    with pytest.raises(ValueError, match="disk"):
        list(read_ahead(broken()))  # type: ignore[arg-type]
