"""The stages' code: the only place where a RunSpec is wired to the parts. Names and inputs are in `star.spec.graph`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from star.data.codes import LEFT_OUT, CodeStore
from star.data.llamagen_codes import LlamaGenCodes
from star.data.pixels import Images
from star.data.sharded import ShardedArray
from star.data.sources import ImageSource, Split, open_source
from star.data.views import NUM_VIEWS, center, sides_before_crop, ten_crop
from star.errors import DataError
from star.evaluate.features import EfficientNetLite0, Features, extract
from star.evaluate.frechet import Moments, frechet_distance, inception_score, moments
from star.evaluate.linear_probe import collect, probe_positions, train_probe
from star.evaluate.precision_recall import precision_recall, radii
from star.model.gpt import GPT
from star.model.sample import noise_for, sample
from star.ranks import Ranks
from star.spec.run import RunSpec
from star.tokenizer.load import load_vq
from star.tokenizer.train import reconstruction_report, to_bytes, to_tensor, train_vq
from star.tokenizer.vq import VQModel
from star.train.trainer import Trainer, build_model
from star.weights import load_weights, save_weights

Result = dict[str, float]
log = logging.getLogger(__name__)


@dataclass
class Context:
    """What a stage gets: its run, its folders, and whom to tell."""

    spec: RunSpec
    inputs: Mapping[str, Path]
    """The `out` folder of each input stage."""
    out: Path
    """An empty folder; it becomes the job's `out` when the stage returns. Only the first rank writes there."""
    checkpoints: Path
    """What outlives an attempt."""
    data_home: Path
    device: torch.device
    threads: int
    ranks: Ranks
    record: Callable[[int, Mapping[str, float]], None]
    progress: Callable[[int, int], None]
    stop: Callable[[], bool]


def dataset(ctx: Context) -> Result:
    """Which images are used: a fixed random subset of each split, and their labels."""
    spec, skipped = ctx.spec.data, 0
    counts: dict[Split, int] = {"train": spec.train_images, "test": spec.test_images}
    for split, count in counts.items():
        source = open_source(spec, ctx.data_home, split, ctx.threads)
        if count > len(source.labels):
            raise DataError(
                f"data.{split}_images: {count} asked for, but the {split} split has {len(source.labels)}; give at most that."
            )
        chosen = np.sort(np.random.default_rng(0).permutation(len(source.labels))[:count])
        if spec.bad_images == "skip":
            chosen = _readable(ctx, source, chosen)
            skipped += count - len(chosen)
            if not len(chosen):
                raise DataError(f"data.bad_images: none of the {count} {split} images can be read; the log names them.")
        np.savez(ctx.out / f"{split}.npz", indices=chosen, labels=source.labels[chosen])
    return {"skipped": skipped}


def _readable(ctx: Context, source: ImageSource, chosen: np.ndarray) -> np.ndarray:
    """Those of the images that can be decoded and have a legal label."""
    good = []
    for first in range(0, len(chosen), 1000):
        part = chosen[first : first + 1000]
        for index, problem in zip(part, source.problems(part), strict=True):
            if problem:
                log.warning("left out: %s", problem)
            else:
                good.append(index)
        ctx.progress(first + len(part), len(chosen))
    return np.array(good, dtype=np.int64)


class Pixels:
    """The chosen images of one split, at the sides that crops are cut from."""

    def __init__(self, ctx: Context, split: Split) -> None:
        chosen = np.load(ctx.inputs["dataset"] / f"{split}.npz")
        self.spec = ctx.spec.data
        self.indices, self.labels = chosen["indices"], chosen["labels"]
        self.source = open_source(self.spec, ctx.data_home, split, ctx.threads)

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, rows: np.ndarray | slice) -> Images:
        """Images (B, S, S, C), larger than a crop, for the first crop range."""
        return self.source.read(self.indices[rows], sides_before_crop(self.spec)[0], self.spec.enlarge)

    def views(self, rows: np.ndarray | slice) -> Images:
        """All views (B, 10 per crop range, S, S, C)."""
        larger = self.source.read_sides(self.indices[rows], sides_before_crop(self.spec), self.spec.enlarge)
        return np.concatenate([ten_crop(images, self.spec.image_size) for images in larger], axis=1)

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
    """All views of each training image, the centre crop of each test image, as codes; shard by shard, resumable."""
    data, length = ctx.spec.data, ctx.spec.sequence_length
    train, test = (Pixels(ctx, split) for split in ("train", "test"))
    views = NUM_VIEWS * len(data.crop_ranges)
    model = _vq(ctx)

    def from_pixels(images: Pixels, crops: Callable[[slice], Images], per_image: int) -> Source:
        def codes(rows: slice) -> tuple[np.ndarray, np.ndarray]:
            per_pass, parts = max(1, ctx.spec.resources.eval_batch_size // per_image), []
            for first in range(rows.start, rows.stop, per_pass):
                cut = crops(slice(first, min(first + per_pass, rows.stop)))
                with torch.no_grad():
                    found = model.encode(to_tensor(cut.reshape(-1, *cut.shape[2:])).to(ctx.device))
                parts.append(found.view(-1, per_image, length).cpu().numpy())
                ctx.progress(meter.done + (first - rows.start) * per_image, meter.total)
            return np.concatenate(parts), images.labels[rows]

        return codes

    source = from_pixels(train, train.views, views)
    if data.codes:
        given = LlamaGenCodes(
            Path(data.codes), len(data.crop_ranges), length, ctx.spec.tokenizer.codebook_size, data.bad_images == "skip"
        )
        source = lambda rows: given.read(train.indices[rows], train.labels[rows])  # noqa: E731
    plain = from_pixels(test, lambda rows: center(test.read(rows), data.image_size)[:, None], 1)
    meter, skipped = _Meter(len(train) * views + len(test)), 0
    for name, images, shape, read in (("train", train, (views, length), source), ("test", test, (1, length), plain)):
        stored = ShardedArray(ctx.checkpoints / name, "codes", (len(images), *shape), np.uint16)
        labels = ShardedArray(ctx.checkpoints / name, "labels", (len(images),), np.int64)
        before = meter.done
        for shard, rows in _shared(ctx, labels, stored):
            codes, found = read(rows)
            stored.write(shard, codes)
            labels.write(shard, found)
            meter.done = before + labels.finished_rows() * shape[0]
            ctx.progress(meter.done, meter.total)
        ctx.ranks.wait()
        meter.done = before + len(images) * shape[0]
        if ctx.ranks.first:
            stored.finish(ctx.out / name)
            labels.finish(ctx.out / name)
            skipped += int((np.load(ctx.out / name / "labels.npy") == LEFT_OUT).sum())
    return {"skipped": skipped}


Source = Callable[[slice], tuple[np.ndarray, np.ndarray]]


@dataclass
class _Meter:
    """How far a stage of several parts is."""

    total: int
    done: int = 0
    """By all ranks, as far as this one knows."""


def _shared(ctx: Context, *arrays: ShardedArray) -> Iterator[tuple[int, slice]]:
    """This rank's shards that any of `arrays` still misses, with their rows."""
    if ctx.ranks.first:
        ctx.checkpoints.mkdir(exist_ok=True)
        for array in arrays:
            array.prepare()
    ctx.ranks.wait()
    found = {shard: rows for array in arrays for shard, rows in array.missing(ctx.ranks.index, ctx.ranks.count)}
    return iter(sorted(found.items()))


def train(ctx: Context) -> Result:
    """The transformer, with ST-AR's objective or without."""
    stores = [CodeStore(ctx.inputs["encode"] / split) for split in ("train", "test")]
    if ctx.ranks.first:
        for store in stores:
            store.verify()
    trainer = Trainer(
        ctx.spec, stores[0], stores[1], ctx.checkpoints, ctx.device, ctx.record, ctx.progress, ctx.stop, ctx.ranks
    )
    result = trainer.train()
    weights = {"student": trainer.student_state(), "teacher": trainer.teacher_state(), "best": trainer.best_state()}
    for name, state in weights.items():
        if state is not None and ctx.ranks.first:
            save_weights(ctx.out / f"{name}.pt", state)
    return result


def generate(ctx: Context) -> Result:
    """Images of every class from the trained model, streamed to disk shard by shard."""
    spec, classes, data = ctx.spec.generate, ctx.spec.data.num_classes, ctx.spec.data
    batch, shown = ctx.spec.resources.sample_batch_size, ctx.spec.resources.eval_batch_size
    model, vq = _gpt(ctx, spec.weights), _vq(ctx)
    rng = np.random.default_rng((ctx.spec.seed, 5))
    labels = (
        np.arange(spec.num_images) % classes if spec.labels == "balanced" else rng.integers(0, classes, spec.num_images)
    )
    shape = (spec.num_images, data.image_size, data.image_size, data.channels)
    stored = ShardedArray(ctx.checkpoints, "images", shape, np.uint8)
    for shard, rows in _shared(ctx, stored):
        images = []
        for first in range(rows.start, rows.stop, batch):
            chunk = torch.from_numpy(labels[first : min(first + batch, rows.stop)]).to(ctx.device)
            noise = noise_for(ctx.spec.seed, first, len(chunk), ctx.spec.sequence_length).to(ctx.device)
            codes = sample(model, chunk, noise, spec)
            with torch.no_grad():
                images += [to_bytes(vq.decode(part)) for part in codes.split(shown)]
            ctx.progress(stored.finished_rows() + first + len(chunk) - rows.start, spec.num_images)
        stored.write(shard, np.concatenate(images))
    ctx.ranks.wait()
    if ctx.ranks.first:
        stored.finish(ctx.out)
        np.save(ctx.out / "labels.npy", labels)
        everything = np.load(ctx.out / "images.npy", mmap_mode="r")
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
    features = _features(ctx, _Plain(Pixels(ctx, "train"), ctx.spec.score.num_reference))
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


class _Plain:
    """The first `count` images as they are compared, read when they are asked for: all of ImageNet's would not fit."""

    def __init__(self, images: Pixels, count: int) -> None:
        self.images, self.count = images, min(count, len(images))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, rows: slice) -> Images:
        return self.images.plain(slice(rows.start, min(rows.stop, self.count)))


def score(ctx: Context) -> Result:
    """Generated against reference images."""
    known = np.load(ctx.inputs["reference"] / "reference.npz")
    features = _features(ctx, np.load(ctx.inputs["generate"] / "images.npy", mmap_mode="r"))
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


def _features(ctx: Context, images: Images | _Plain) -> Features:
    spec = ctx.spec.score
    return extract(
        EfficientNetLite0(spec.input_size).to(ctx.device),
        images,
        spec.image_size,
        ctx.spec.resources.eval_batch_size,
        ctx.device,
        ctx.progress,
    )
