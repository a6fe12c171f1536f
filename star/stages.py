"""The stages' code: the only place where a RunSpec is wired to the parts. Names and inputs are in `star.spec.graph`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from star.data import codes as code_store
from star.data.codes import CodeStore
from star.data.sources import Images, Split, open_source
from star.data.views import NUM_VIEWS, center, side_before_crop, ten_crop
from star.errors import DataError
from star.evaluate.features import EfficientNetLite0, Features, extract
from star.evaluate.frechet import Moments, frechet_distance, inception_score, moments
from star.evaluate.linear_probe import collect, probe_positions, train_probe
from star.evaluate.precision_recall import precision_recall, radii
from star.model.gpt import GPT
from star.model.sample import noise_for, sample
from star.spec.run import RunSpec
from star.tokenizer.load import load_vq
from star.tokenizer.train import reconstruction_report, to_bytes, to_tensor, train_vq
from star.tokenizer.vq import VQModel
from star.train.trainer import Trainer, build_model
from star.weights import load_weights, save_weights

Result = dict[str, float]


@dataclass
class Context:
    """What a stage gets: its run, its folders, and whom to tell."""

    spec: RunSpec
    inputs: Mapping[str, Path]
    """The `out` folder of each input stage."""
    out: Path
    """An empty folder; it becomes the job's `out` when the stage returns."""
    checkpoints: Path
    data_home: Path
    device: torch.device
    record: Callable[[int, Mapping[str, float]], None]
    progress: Callable[[int, int], None]
    stop: Callable[[], bool]


def dataset(ctx: Context) -> Result:
    """Which images are used: a fixed random subset of each split, and their labels."""
    counts: dict[Split, int] = {"train": ctx.spec.data.train_images, "test": ctx.spec.data.test_images}
    for split, count in counts.items():
        labels = open_source(ctx.spec.data, ctx.data_home, split).labels
        if count > len(labels):
            raise DataError(
                f"data.{split}_images: {count} asked for, but the {split} split has {len(labels)}; give at most that."
            )
        chosen = np.sort(np.random.default_rng(0).permutation(len(labels))[:count])
        np.savez(ctx.out / f"{split}.npz", indices=chosen, labels=labels[chosen])
    return {}


class Pixels:
    """The chosen images of one split, at the side that crops are cut from."""

    def __init__(self, ctx: Context, split: Split) -> None:
        chosen = np.load(ctx.inputs["dataset"] / f"{split}.npz")
        self.spec = ctx.spec.data
        self.indices, self.labels = chosen["indices"], chosen["labels"]
        self.source = open_source(self.spec, ctx.data_home, split)

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, rows: np.ndarray | slice) -> Images:
        """Images (B, S, S, C), larger than a crop."""
        return self.source.read(self.indices[rows], side_before_crop(self.spec), self.spec.enlarge)

    def plain(self, rows: np.ndarray | slice) -> Images:
        """Centre crops at the image's own side: what a metric compares with."""
        return self.source.read(self.indices[rows], self.spec.image_size, self.spec.enlarge)


def tokenizer(ctx: Context) -> Result:
    """Train the VQ model (or take the given weights) and report how test images survive it."""
    spec, size = ctx.spec.tokenizer, ctx.spec.data.image_size
    train, test = Pixels(ctx, "train"), Pixels(ctx, "test")

    def batch_at(step: int) -> Images:
        rng = np.random.default_rng((spec.seed, step))
        rows = np.sort(rng.choice(len(train), spec.batch_size))
        return ten_crop(train.read(rows), size)[np.arange(len(rows)), rng.integers(0, NUM_VIEWS, len(rows))]

    if spec.weights:
        model = load_vq(spec, ctx.spec.data.channels, Path(spec.weights)).to(ctx.device)
    else:
        model = train_vq(spec, ctx.spec.data.channels, batch_at, ctx.device, ctx.record, ctx.progress)
    save_weights(ctx.out / "vq.pt", model.state_dict())
    shown = min(len(test), 2000)
    batches = [
        center(test.read(slice(i, min(i + ctx.spec.resources.eval_batch_size, shown))), size)
        for i in range(0, shown, ctx.spec.resources.eval_batch_size)
    ]
    return reconstruction_report(model, batches, ctx.device)


def encode(ctx: Context) -> Result:
    """Ten views of each training image, the centre crop of each test image, as codes."""
    model, size = _vq(ctx), ctx.spec.data.image_size
    splits: list[tuple[Split, int]] = [("train", NUM_VIEWS), ("test", 1)]
    pixels = {split: Pixels(ctx, split) for split, _ in splits}
    total, done = sum(len(pixels[split]) * views for split, views in splits), 0
    for split, views in splits:
        images = pixels[split]
        store = code_store.create(ctx.out / split, len(images), views, ctx.spec.sequence_length)
        per_pass = max(1, ctx.spec.resources.eval_batch_size // views)
        for first in range(0, len(images), per_pass):
            rows = slice(first, min(first + per_pass, len(images)))
            read = images.read(rows)
            crops = ten_crop(read, size) if views > 1 else center(read, size)[:, None]
            with torch.no_grad():
                codes = model.encode(to_tensor(crops.reshape(-1, *crops.shape[2:])).to(ctx.device))
            store[rows] = codes.view(-1, views, ctx.spec.sequence_length).cpu().numpy()
            done += (rows.stop - rows.start) * views
            ctx.progress(done, total)
        store.flush()
        np.save(ctx.out / split / "labels.npy", images.labels)
    return {}


def train(ctx: Context) -> Result:
    """The transformer, with ST-AR's objective or without."""
    stores = [CodeStore(ctx.inputs["encode"] / split) for split in ("train", "test")]
    trainer = Trainer(ctx.spec, stores[0], stores[1], ctx.checkpoints, ctx.device, ctx.record, ctx.progress, ctx.stop)
    result = trainer.train()
    save_weights(ctx.out / "student.pt", trainer.objective.student.state_dict())
    if trainer.objective.teacher is not None:
        save_weights(ctx.out / "teacher.pt", trainer.objective.teacher.copy.state_dict())
    return result


def generate(ctx: Context) -> Result:
    """Images of every class from the trained model."""
    batch = ctx.spec.resources.sample_batch_size
    spec, classes, length = ctx.spec.generate, ctx.spec.data.num_classes, ctx.spec.sequence_length
    model, vq = _gpt(ctx, spec.weights), _vq(ctx)
    rng = np.random.default_rng((ctx.spec.seed, 5))
    labels = (
        np.arange(spec.num_images) % classes if spec.labels == "balanced" else rng.integers(0, classes, spec.num_images)
    )
    images = []
    for first in range(0, spec.num_images, batch):
        chunk = torch.from_numpy(labels[first : first + batch]).to(ctx.device)
        noise = noise_for(ctx.spec.seed, first, len(chunk), length).to(ctx.device)
        codes = sample(model, chunk, noise, spec)
        with torch.no_grad():
            images += [to_bytes(vq.decode(part)) for part in codes.split(ctx.spec.resources.eval_batch_size)]
        ctx.progress(first + len(chunk), spec.num_images)
    everything = np.concatenate(images)
    np.save(ctx.out / "images.npy", everything)
    np.save(ctx.out / "labels.npy", labels)
    save_grid(ctx.out / "samples.png", everything, labels, classes)
    return {}


def save_grid(path: Path, images: Images, labels: np.ndarray, classes: int, columns: int = 12, rows: int = 10) -> None:
    """A picture of samples: a row for each of the first classes."""
    from PIL import Image

    shown = [images[labels == label][:columns] for label in range(min(classes, rows))]
    width = min(len(line) for line in shown)
    if width:
        grid = np.concatenate([np.concatenate(list(line[:width]), axis=1) for line in shown], axis=0)
        scale = max(1, 56 // images.shape[1])
        Image.fromarray(np.kron(grid, np.ones((scale, scale, 1), dtype=np.uint8)).squeeze()).save(path)


def reference(ctx: Context) -> Result:
    """Features of real training images, once for all runs that are scored against them."""
    images = Pixels(ctx, "train")
    chosen = images.plain(slice(0, ctx.spec.score.num_reference))
    features = _features(ctx, chosen)
    ours, spatial = moments(features.pooled), moments(features.spatial)
    distances = radii(torch.from_numpy(features.pooled).to(ctx.device), ctx.spec.score.neighbours).cpu().numpy()
    np.savez(
        ctx.out / "reference.npz",
        mu=ours.mean,
        sigma=ours.covariance,
        mu_s=spatial.mean,
        sigma_s=spatial.covariance,
        pooled=features.pooled,
        radii=distances,
    )
    return {}


def score(ctx: Context) -> Result:
    """Generated against reference images."""
    known = np.load(ctx.inputs["reference"] / "reference.npz")
    features = _features(ctx, np.load(ctx.inputs["generate"] / "images.npy"))
    pooled = [torch.from_numpy(array).to(ctx.device) for array in (known["pooled"], features.pooled, known["radii"])]
    precision, recall = precision_recall(*pooled, ctx.spec.score.neighbours)
    values = {
        "frechet_distance": frechet_distance(Moments(known["mu"], known["sigma"]), moments(features.pooled)),
        "spatial_frechet_distance": frechet_distance(
            Moments(known["mu_s"], known["sigma_s"]), moments(features.spatial)
        ),
        "inception_score": inception_score(features.probabilities, ctx.spec.score.is_splits),
        "precision": precision,
        "recall": recall,
    }
    return {f"{ctx.spec.score.extractor}/{name}": value for name, value in values.items()}


def probe(ctx: Context) -> Result:
    """Linear-probe accuracy at equally spaced positions; `accuracy` is the last one's, as in table 3."""
    model, spec = _gpt(ctx, "student"), ctx.spec.probe
    positions = probe_positions(spec.positions, ctx.spec.sequence_length)
    sides = []
    for split in ("train", "test"):
        store = CodeStore(ctx.inputs["encode"] / split)

        def codes(first: int, last: int, store: CodeStore = store) -> Tensor:
            return torch.from_numpy(store.center(first, last)).to(ctx.device)

        features = collect(
            model, codes, len(store), ctx.spec.probe_layer, positions, ctx.spec.resources.sample_batch_size
        )
        sides.append((features, torch.from_numpy(store.labels).to(ctx.device)))
    found = train_probe(sides[0], sides[1], ctx.spec.data.num_classes, spec, positions, ctx.spec.seed, ctx.progress)
    for position, accuracy, rate in zip(found.positions, found.accuracy, found.best_lr, strict=True):
        ctx.record(position, {"accuracy_by_position": accuracy, "best_lr_by_position": rate})
    return {"accuracy": found.accuracy[-1]}


STAGES: dict[str, Callable[[Context], Result]] = {
    stage.__name__: stage for stage in (dataset, tokenizer, encode, train, reference, generate, score, probe)
}


def _vq(ctx: Context) -> VQModel:
    return load_vq(ctx.spec.tokenizer, ctx.spec.data.channels, ctx.inputs["tokenizer"] / "vq.pt").to(ctx.device)


def _gpt(ctx: Context, weights: str) -> GPT:
    model = build_model(ctx.spec)
    model.load_state_dict(load_weights(ctx.inputs["train"] / f"{weights}.pt"))
    return model.eval().to(ctx.device)


def _features(ctx: Context, images: Images) -> Features:
    spec = ctx.spec.score
    return extract(
        EfficientNetLite0(spec.input_size).to(ctx.device),
        images,
        spec.image_size,
        ctx.spec.resources.eval_batch_size,
        ctx.device,
        ctx.progress,
    )
