"""Small parts that larger tests pass by: the guard, memory, the weights that are kept, ranks that put together what they gathered."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from star.data.codes import CodeStore
from star.data.views import center, sides_before_crop
from star.errors import DataError
from star.evaluate import linear_probe
from star.evaluate.features import EfficientNetLite0, features_of, load_extractor, resized
from star.evaluate.linear_probe import train_probe
from star.evaluate.statistics import Statistics
from star.model.gpt import RMSNorm
from star.model.sample import noise_for
from star.objectives.contrastive import Contrastive
from star.objectives.precision import at_least_fp32
from star.pipeline.config import RunSpec
from star.pipeline.config.probe import ProbeSpec
from star.train.batches import batch_at
from star.train.guard import DivergedError, MicroBatch, check, finite_nll, is_out_of_memory
from star.train.optim import lr_at
from star.train.terms import terms_of
from star.train.trainer import Trainer
from tests.helpers import tiny
from tests.numerics.test_plain_trainer import copied, stores
from tests.numerics.test_statistics import IMAGES, Tiny

CPU = torch.device("cpu")
GOOD = {"ar_loss": 3.0, "loss": 4.0, "grad_norm": 1.0}


def test_memory_that_runs_out_is_known() -> None:
    for error in (
        torch.OutOfMemoryError("x"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: 3"),
    ):
        assert is_out_of_memory(error)
    for other in (RuntimeError("shapes differ"), ValueError("can't allocate memory")):
        assert not is_out_of_memory(other)


def test_passes_are_halved_and_remembered(tmp_path: Path) -> None:
    folder = tmp_path / "job" / "checkpoints"
    micro, sizes = MicroBatch(folder, 13), []
    for _ in range(4):
        micro.halve()
        sizes.append(micro.size)
        assert MicroBatch(folder, 13).size == micro.size
    assert sizes == [7, 4, 2, 1] and MicroBatch(folder, 13).size == 1
    with pytest.raises(DataError, match="memory runs out with one image per forward pass"):
        micro.halve()
    assert MicroBatch(tmp_path / "elsewhere", 5).size == 5


def test_a_run_that_left_the_road_is_stopped() -> None:
    check(GOOD, 7, 32, 0.1, "kept")
    check({**GOOD, "ar_loss": float(np.log(32)) + 1.99}, 7, 32, 0.1, "kept")
    with pytest.raises(
        DivergedError, match=r"after step 7 ar_loss is 5.5 nats, far above the 3.47 of guessing among 32 codes"
    ):
        check({**GOOD, "ar_loss": 5.5}, 7, 32, 0.1, "kept")
    for name in GOOD:
        with pytest.raises(DivergedError, match=f"after step 7 {name} is inf"):
            check({**GOOD, name: float("inf")}, 7, 32, 0.1, "kept")
    assert finite_nll(2.5, 1) == 2.5
    with pytest.raises(DivergedError, match="after step 1 the validation loss is nan"):
        finite_nll(float("nan"), 1)


def test_what_is_recorded_and_what_is_kept(tmp_path: Path) -> None:
    train, test, _ = stores(tmp_path)
    recorded: dict[int, dict[str, float]] = {}
    spec = tiny(
        optim__steps=21,
        optim__batch_size=4,
        optim__warmup_steps=4,
        optim__schedule="cosine",
        resources__validate_every=8,
    )
    trainer = Trainer(
        *(spec, train, test, tmp_path / "checkpoints", CPU),
        *(lambda step, metrics: recorded.setdefault(step, {}).update(metrics), lambda done, total: None, lambda: False),
    )
    trainer.train()
    assert sorted(recorded) == [1, 8, 10, 16, 20, 21]
    names = {"loss", "ar_loss", "mim_loss", "inter_step_loss", "inter_view_loss", "grad_norm", "lr"}
    for step in (1, 10, 20):
        assert set(recorded[step]) == names and recorded[step]["lr"] == lr_at(step - 1, 21, spec.optim)
    assert set(recorded[8]) == {"val_nll_by_step"} and set(recorded[21]) == names | {"val_nll_by_step"}
    objective = trainer.objective
    teacher = trainer.teacher_state()
    assert teacher is not None and objective.teacher is not None
    for found, module in ((trainer.student_state(), objective.student), (teacher, objective.teacher.copy)):
        known = copied(module)  # type: ignore[arg-type]
        assert found.keys() == known.keys() and all(torch.equal(found[key], known[key]) for key in known)
    best = min((8, 16, 21), key=lambda step: recorded[step]["val_nll_by_step"])
    kept = trainer.checkpoints.best()
    assert kept is not None and kept["step"] == best and trainer.best_state() is not None
    plain = tiny(selfguided__mim_weight=0.0, selfguided__contrastive_weight=0.0, optim__batch_size=4)
    none = Trainer(plain, train, test, tmp_path / "b", CPU, lambda *_: None, lambda *_: None, lambda: False)
    assert none.teacher_state() is None and none.best_state() is None


def test_the_best_weights_so_far_are_remembered_by_the_next_process(tmp_path: Path) -> None:
    """Or a worse model would take their place after a stop."""
    train, test, _ = stores(tmp_path)
    spec = tiny(optim__steps=8, optim__batch_size=4, resources__validate_every=4)
    validated: list[float] = []

    def made() -> Trainer:
        record = lambda step, metrics: validated.extend(v for k, v in metrics.items() if k == "val_nll_by_step")  # noqa: E731
        return Trainer(spec, train, test, tmp_path / "checkpoints", CPU, record, lambda *_: None, lambda: False)

    first = made()
    first.train()
    assert len(validated) == 2 and first.best_nll == min(validated)
    first.checkpoints.wait()
    assert made().best_nll == first.best_nll


@pytest.mark.parametrize(("precision", "kind"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_the_precision_is_the_specs(precision: str, kind: torch.dtype, tmp_path: Path) -> None:
    train, test, _ = stores(tmp_path)
    spec = tiny(optim__steps=1, optim__batch_size=4, optim__precision=precision)
    trainer = Trainer(spec, train, test, tmp_path / "c", CPU, lambda *_: None, lambda *_: None, lambda: False)
    kinds: dict[str, set[torch.dtype]] = {"student": set(), "teacher": set()}
    assert trainer.objective.teacher is not None
    for name, model in (("student", trainer.objective.student), ("teacher", trainer.objective.teacher.copy)):
        model.layers[0].attention.wqkv.register_forward_hook(  # type: ignore[union-attr, index]
            lambda module, inputs, output, name=name: kinds[name].add(output.dtype)
        )
    trainer.train_step()
    assert kinds == {"student": {kind}, "teacher": {kind}}
    assert {parameter.dtype for parameter in trainer.objective.parameters()} == {torch.float32}


def test_crops_are_cut_from_the_centre_of_larger_images() -> None:
    spec = tiny().data.model_copy(update={"image_size": 100, "crop_range": 1.1, "extra_crop_range": 1.05})
    assert sides_before_crop(spec) == [110, 105]
    rows = np.arange(11, dtype=np.uint8).repeat(11).reshape(1, 11, 11, 1)
    for size, first in ((1, 5), (4, 4), (5, 3), (8, 2), (11, 0)):
        assert center(rows, size)[0, :, 0, 0].tolist() == list(range(first, first + size))
        assert center(rows.swapaxes(1, 2), size)[0, 0, :, 0].tolist() == list(range(first, first + size))


def test_as_little_as_the_losses_can_compare_is_enough() -> None:
    spec = tiny().selfguided.model_copy(update={"num_positions": 4})
    term = Contrastive(spec, layer=1)
    term.check(images=2, views=2, length=4)
    for less in ({"images": 1}, {"views": 1}, {"length": 3}):
        with pytest.raises(ValueError, match="view of each image|hold 1 image|fewer than num_positions"):
            term.check(**({"images": 2, "views": 2, "length": 4} | less))


@pytest.mark.parametrize("which", [None, "token_dropout", "residual_dropout", "ffn_dropout"])
def test_any_dropout_has_its_seeds(which: str | None, tmp_path: Path) -> None:
    train, _, _ = stores(tmp_path)
    rates = dict.fromkeys(("model__token_dropout", "model__residual_dropout", "model__ffn_dropout"), 0.0)
    spec = tiny(optim__batch_size=4, **(rates | ({f"model__{which}": 0.1} if which else {})))
    assert (batch_at(spec, terms_of(spec), train, 0).seeds is not None) == (which is not None)


def seen(spec: RunSpec, data: CodeStore, steps: int) -> set[int]:
    """The images of the first steps."""
    batches = [batch_at(spec, terms_of(spec), data, step).images for step in range(steps)]
    return {int(image) for images in batches if images is not None for image in images}


def test_a_part_of_the_images_is_trained_on(tmp_path: Path) -> None:
    train, _, _ = stores(tmp_path)
    count = len(train)
    few, more, every = (
        seen(tiny(optim__batch_size=4, optim__train_images=n).model_copy(update={"seed": seed}), train, 20)
        for n, seed in ((4, 0), (8, 1), (None, 0))
    )
    assert (len(few), len(more), len(every)) == (4, 8, count) and few < more
    assert few != set(range(4)), "drawn, not the first ones: folders list a class at a time"


def test_what_is_coarse_is_normed_and_compared_in_float32() -> None:
    coarse = torch.randn(3, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert at_least_fp32(coarse).dtype == torch.float32 and at_least_fp32(coarse.double()).dtype == torch.float64
    norm = RMSNorm(64, 1e-5)
    exact = coarse.double() / (coarse.double().square().mean(-1, keepdim=True) + 1e-5).sqrt()
    assert torch.equal(norm.bfloat16()(coarse), exact.bfloat16())


def test_an_images_numbers_are_its_own() -> None:
    """Published samples are made again from the seed: which stream it names must never change."""
    known = np.stack([np.random.default_rng((5, 6, index)).random(3) for index in (2, 3)])
    np.testing.assert_array_equal(noise_for(5, 2, 2, 3), known)


def test_the_network_is_the_one_that_is_named(tmp_path: Path) -> None:
    made = load_extractor("efficientnet-lite0", 64, tmp_path / "none", CPU)
    plain = EfficientNetLite0(64).eval()
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 40, 40), dtype=np.uint8))
    with torch.no_grad():
        for mine, known in zip(made.layers(made.resized(images)), plain.layers(plain.resized(images)), strict=True):
            torch.testing.assert_close(mine, known, rtol=1e-3, atol=1e-3)
    assert not any(parameter.requires_grad for parameter in made.parameters())
    assert made.network._conv_head.weight.is_contiguous(memory_format=torch.channels_last)  # type: ignore[union-attr]
    with pytest.raises(DataError, match="none"):
        load_extractor("inception", 299, tmp_path / "none", CPU)


class Together:
    """Two ranks in one process: what one gives is put beside what the other gave before, in the order in which they are asked."""

    def __init__(self, other: list[Tensor] | None) -> None:
        self.world_size, self.rank, self.other, self.given = 2, 1 if other else 0, other, []

    def _beside(self, own: Tensor) -> Tensor:
        self.given.append(own)
        return self.other[len(self.given) - 1] if self.other else torch.zeros_like(own)

    def all_reduce(self, own: Tensor) -> Tensor:
        return own + self._beside(own)

    def gather(self, own: Tensor) -> Tensor:
        return torch.cat([self._beside(own), own])


def test_two_ranks_gather_what_one_does() -> None:
    def gathered(first: int, last: int) -> Statistics:
        found = Statistics(230, 100, 50, CPU)
        found.gather(Tiny(), (IMAGES[i : min(i + 20, last)] for i in range(first, last, 20)), first=first)
        return found

    alone = gathered(0, 230)
    rehearsal = Together(None)
    gathered(0, 115).merge_ranks(rehearsal)  # type: ignore[arg-type]
    found = gathered(115, 230)
    found.merge_ranks(Together(rehearsal.given))  # type: ignore[arg-type]
    torch.testing.assert_close(found.points, alone.points)
    assert found.score.result() == pytest.approx(alone.score.result(), rel=1e-12)
    for name in ("pooled", "spatial"):
        mine, theirs = getattr(found, name).result(), getattr(alone, name).result()
        np.testing.assert_allclose(mine.mean, theirs.mean, rtol=1e-10)
        np.testing.assert_allclose(mine.covariance, theirs.covariance, rtol=1e-8, atol=1e-12)


def test_the_other_network_sees_what_its_weights_were_trained_on() -> None:
    network = EfficientNetLite0(40)
    grey = torch.arange(2 * 28 * 28).remainder(256).float().view(2, 1, 28, 28)
    seen = network.resized(grey)
    assert seen.shape == (2, 3, 40, 40)
    expected = (resized(grey, 40) - 127) / 128
    for channel in range(3):
        torch.testing.assert_close(seen[:, channel], expected[:, 0], rtol=0, atol=1e-6)
    assert features_of("inception", 64) == "inception"
    assert features_of("efficientnet-lite0", 64) == "efficientnet-lite0@64"


class ByEpoch:
    """Features whose class can be told in training's views alone, and not in centre crops."""

    def __init__(self, count: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.labels = torch.randint(3, (count,), generator=generator)
        self.noise = torch.randn(count, 1, 3, generator=generator)
        self.asked: list[int | None] = []

    def features(self, rows: Tensor, epoch: int | None = None) -> Tensor:
        self.asked.append(epoch)
        told = torch.nn.functional.one_hot(self.labels[rows], 3).float()[:, None] * 5
        return self.noise[rows] + (told if epoch is not None else told.roll(1, -1))

    def passes(self, rows: Tensor):  # type: ignore[no-untyped-def]
        yield self.features(rows, 0)


def test_a_probe_trains_on_each_epochs_views_and_is_tested_on_centre_crops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_probe, "TESTED", 30)  # the test images are counted in several parts
    source = ByEpoch(300)
    spec = ProbeSpec(positions=1, epochs=20, warmup_epochs=1, batch_size=50, base_lrs=[100.0])
    done: list[tuple[int, int]] = []
    found = train_probe(source, source, 3, spec, [1], 0, lambda *far: done.append(far))
    assert {epoch for epoch in source.asked if epoch is not None} == set(range(20)) and None in source.asked
    assert done == [(epoch, 20) for epoch in range(1, 21)]
    assert found.accuracy[0] < 0.1, "what was learnt of the views is wrong of the crops"
    assert found.accuracy_top5[0] == 1, "of three classes"
