"""The trainer: resumed runs repeat themselves bit for bit, a damaged checkpoint costs steps and not the run."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from star.checkpoint import Checkpoints
from star.data.codes import CodeStore, distinct_views
from star.errors import FULL, PASSING, DataError, Stopped, has_errno
from star.pipeline.config.setting import Setting
from star.ranks import Ranks
from star.stages.generate import _sampled
from star.train.guard import DivergedError, MicroBatch
from star.train.optim import build_adamw, lr_at, peak_lr
from star.train.terms import terms_of
from star.train.trainer import Trainer, build_model
from tests.helpers import ROOT, needs_compiler, tiny, write_store
from tests.numerics.published import FIELDS, term

STEPS = 12


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[CodeStore, CodeStore]:
    folder = tmp_path_factory.mktemp("codes")
    rng = np.random.default_rng(0)
    for split, count, views in (("train", 40, 10), ("test", 10, 1)):
        write_store(folder / split, rng.integers(0, 32, (count, views, 49)), rng.integers(0, 10, count))
    return CodeStore(folder / "train"), CodeStore(folder / "test")


Losses = dict[int, float]


def trainer(
    stores: tuple[CodeStore, CodeStore],
    folder: Path,
    losses: Losses,
    stop: Callable[[], bool] = lambda: False,
    own: Sequence[str] = (),
    **changes: object,
) -> Trainer:
    spec = tiny(
        optim__steps=STEPS, resources__checkpoint_every=3, data__train_images=40, score__num_reference=40, **changes
    )
    published = [term(name, Setting.of(spec)) for name in own]
    terms = [*terms_of(spec), *published] if published else None
    told = (lambda step, metrics: None, lambda done, total: None, stop)
    made = Trainer(spec, *stores, folder, torch.device("cpu"), *told, terms=terms)
    plain = made.train_step

    def watched() -> dict[str, torch.Tensor]:
        metrics = plain()
        losses[made.step] = metrics["loss"].item()
        return metrics

    made.train_step = watched  # type: ignore[method-assign]
    return made


@pytest.mark.parametrize(
    "stop_after, own",
    [(1, ()), (3, ()), (7, ()), (11, ()), *((5, (name,)) for name in FIELDS), (5, ("order",)), (5, ("registers",))],
)
def test_a_stopped_run_goes_on_bit_for_bit(
    stores: tuple[CodeStore, CodeStore], tmp_path: Path, stop_after: int, own: tuple[str, ...]
) -> None:
    """ST-AR's, and with each of the published terms beside it, but for one that does not go with it."""
    without = {"selfguided__mim_weight": 0.0, "selfguided__contrastive_weight": 0.0} if "registers" in own else {}
    whole: Losses = {}
    straight = trainer(stores, tmp_path / "a", whole, own=own, **without)
    result = straight.train()
    parts: Losses = {}
    with pytest.raises(Stopped):
        trainer(stores, tmp_path / "b", parts, lambda: len(parts) == stop_after, own, **without).train()
    resumed = trainer(stores, tmp_path / "b", parts, own=own, **without)
    assert resumed.step == stop_after
    assert resumed.train() == result
    assert parts == whole and len(whole) == STEPS
    for a, b in zip(straight.objective.state_dict().values(), resumed.objective.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("during", [6, STEPS])
def test_a_run_that_is_stopped_in_a_validation_goes_on_with_it(
    stores: tuple[CodeStore, CodeStore], tmp_path: Path, during: int
) -> None:
    """In one at an end, and in one on the way; the steps before it are not computed again."""
    every: dict[str, object] = {"resources__validate_every": 6, "resources__sample_batch_size": 4}
    seen: dict[str, list[tuple[int, float]]] = {"a": [], "b": []}
    whole: Losses = {}
    straight = trainer(stores, tmp_path / "a", whole, **every)
    straight.record = lambda step, values: keep(seen["a"], step, values)  # type: ignore[method-assign]
    result = straight.train()
    parts: Losses = {}
    first = trainer(stores, tmp_path / "b", parts, **every)
    first.record = lambda step, values: keep(seen["b"], step, values)  # type: ignore[method-assign]
    asked = iter([False, True])
    first.stop = lambda: len(parts) == during and not first.objective.training and next(asked)  # type: ignore[method-assign]
    with pytest.raises(Stopped, match=f"after step {during} is saved"):
        first.train()
    resumed = trainer(stores, tmp_path / "b", parts, **every)
    resumed.record = lambda step, values: keep(seen["b"], step, values)  # type: ignore[method-assign]
    assert resumed.step == during and resumed.train() == result
    assert parts == whole and list(parts) == list(range(STEPS)) and seen["b"] == seen["a"]
    assert resumed.best_nll == straight.best_nll


def test_states_above_the_one_that_is_saved_are_of_a_past_that_was_given_up(tmp_path: Path) -> None:
    """They are damaged, and training went on from an earlier state: they must not take its place."""
    kept = Checkpoints(tmp_path, keep=1)
    kept.save(1000, {"weights": torch.zeros(9)})
    kept.wait()
    newest = tmp_path / "step-000001000.pt"
    newest.write_bytes(newest.read_bytes()[:100])
    again = Checkpoints(tmp_path, keep=1)
    assert again.newest() is None
    again.save_best({"val_nll": 1.0})
    again.save(400, {"weights": torch.zeros(9)})
    again.wait()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.pt", "step-000000400.pt"]
    found = again.newest()
    assert found is not None and found[0] == 400


def test_a_state_that_cannot_be_read_for_the_moment_is_not_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Checkpoints(tmp_path, keep=2)
    kept.save(1, {"weights": torch.zeros(9)})
    kept.wait()

    def gone(*args: object, **options: object) -> None:
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(zipfile, "ZipFile", gone)
    with pytest.raises(DataError, match="Stale file handle") as found:
        kept.newest()
    assert has_errno(found.value, PASSING)
    (tmp_path / "best.pt").write_bytes((tmp_path / "step-000000001.pt").read_bytes())
    with pytest.raises(DataError, match="Stale file handle"):  # or a worse one would take its place
        kept.best()


def keep(found: list[tuple[int, float]], step: int, values: Mapping[str, float]) -> None:
    if "val_nll_by_step" in values:
        found.append((step, values["val_nll_by_step"]))


def test_a_damaged_checkpoint_falls_back_to_the_one_before(stores: tuple[CodeStore, CodeStore], tmp_path: Path) -> None:
    losses: Losses = {}
    with pytest.raises(Stopped):
        trainer(stores, tmp_path, losses, lambda: len(losses) == 7).train()
    newest = max(tmp_path.glob("step-*.pt"))
    assert newest.name == "step-000000007.pt"
    newest.write_bytes(newest.read_bytes()[:1000])
    assert trainer(stores, tmp_path, {}).step == 6


class Torn(Ranks):
    """Two ranks, of which the other sees another state."""

    def gather(self, own: torch.Tensor) -> torch.Tensor:
        return torch.cat([own, own + torch.tensor([[3.0, 0.0, 0.0]])])


def test_ranks_that_see_different_states_train_no_mixture_of_them(
    stores: tuple[CodeStore, CodeStore], tmp_path: Path
) -> None:
    """On a network file system one machine may not see the newest checkpoint yet."""
    told = (lambda step, metrics: None, lambda done, total: None, lambda: False)
    with pytest.raises(OSError, match="the processes see different states, after steps 0, 3") as found:
        Trainer(
            tiny(data__train_images=40, score__num_reference=40), *stores, tmp_path, torch.device("cpu"), *told, Torn()
        )
    assert has_errno(found.value, PASSING)


def test_micro_batches_train_the_same(stores: tuple[CodeStore, CodeStore], tmp_path: Path) -> None:
    """With dropout: its masks belong to the sequences, not to the pass they are in."""
    whole: Losses = {}
    parts: Losses = {}
    trainer(stores, tmp_path / "a", whole).train()
    made = trainer(stores, tmp_path / "b", parts, resources__micro_batch_size=3)
    assert made.spec.model.residual_dropout > 0 and made.micro.size == 3
    made.train()
    assert list(parts.values()) == pytest.approx(list(whole.values()), rel=1e-4)


def test_memory_that_runs_out_halves_the_pass_and_keeps_the_loss(tmp_path: Path) -> None:
    found = []
    for megabytes in (0, 250):
        command = [
            sys.executable,
            "-m",
            "tests.numerics.short_of_memory",
            str(tmp_path / str(megabytes)),
            str(megabytes),
        ]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout))
        assert ("memory ran out: 128 images" in done.stderr) == bool(megabytes)
    assert found[0]["micro"] == 256 and 1 <= found[1]["micro"] <= 128
    assert found[1]["losses"] == pytest.approx(found[0]["losses"], rel=1e-5)
    again = MicroBatch(tmp_path / "250" / "checkpoints", 256)
    assert again.size == found[1]["micro"], "the next attempt remembers"
    again.size = 1
    with pytest.raises(DataError, match="memory runs out with one image per forward pass"):
        again.halve()


@pytest.mark.skipif(os.getuid() != 0, reason="only root may mount a small disk")
def test_a_full_disk_is_known_as_one(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)], check=True)
    try:
        kept = Checkpoints(tmp_path, keep=2)
        kept.save(1, {"weights": torch.zeros(1_000_000)})
        with pytest.raises(DataError) as found:
            kept.wait()
        assert has_errno(found.value, FULL) and list(tmp_path.iterdir()) == []
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_disk_that_takes_no_more_is_said_and_leaves_no_half_checkpoint(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path, keep=2)
    kept.save(1, {"weights": torch.zeros(9)})
    kept.wait()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        kept.save(2, {"weights": torch.zeros(1_000_000)})
        with pytest.raises(DataError, match="a checkpoint could not be written: .*Free some space and run again"):
            kept.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    found = kept.newest()
    assert found is not None and found[0] == 1
    kept.save(3, {"weights": torch.zeros(9)})
    kept.wait()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000000001.pt", "step-000000003.pt"]


@needs_compiler
def test_a_compiled_model_trains_the_same(stores: tuple[CodeStore, CodeStore], tmp_path: Path) -> None:
    eager: Losses = {}
    compiled: Losses = {}
    trainer(stores, tmp_path / "a", eager, optim__batch_size=4).train()
    made = trainer(stores, tmp_path / "b", compiled, optim__batch_size=4, resources__compile=True)
    made.train()
    assert list(compiled.values()) == pytest.approx(list(eager.values()), rel=1e-4)
    assert set(made.student_state()) == set(build_model(made.spec).state_dict())


def test_the_best_weights_are_kept_beside_the_last(stores: tuple[CodeStore, CodeStore], tmp_path: Path) -> None:
    told: list[tuple[int, float]] = []
    made = trainer(stores, tmp_path, {}, resources__validate_every=2, optim__lr=3.0)
    made.record = lambda step, metrics: told.extend((step, v) for k, v in metrics.items() if k == "val_nll_by_step")
    result = made.train()
    recorded = dict(told)
    assert [step for step, _ in told] == [2, 4, 6, 8, 10, 12] and result["val_nll"] == recorded[12]
    best = made.checkpoints.best()
    assert best is not None and best["val_nll"] == min(recorded.values()) == recorded[best["step"]]
    made.objective.student.load_state_dict(best["model"])
    assert made.validation_nll() == best["val_nll"]


def test_a_loss_that_is_no_number_stops_the_run(stores: tuple[CodeStore, CodeStore], tmp_path: Path) -> None:
    diverging = trainer(stores, tmp_path, {})
    diverging.objective.student.output.weight.data.fill_(float("nan"))
    with pytest.raises(DivergedError, match="lower optim.lr"):
        diverging.train()


def test_a_last_validation_loss_that_is_no_number_stops_the_run(
    stores: tuple[CodeStore, CodeStore], tmp_path: Path
) -> None:
    """With 0 steps of given weights nothing else looks at a number before images are drawn from it."""
    made = trainer(stores, tmp_path, {})
    made.step = made.spec.last_step
    made.objective.student.output.weight.data.fill_(float("nan"))
    with pytest.raises(DivergedError, match="after step 12 the validation loss is nan"):
        made.train()


def test_a_loss_far_above_guessing_stops_the_run(stores: tuple[CodeStore, CodeStore], tmp_path: Path) -> None:
    """And what was saved before is still there, and named."""
    diverging = trainer(stores, tmp_path, {}, optim__grad_clip=0.0)
    saved: list[int] = []

    def spoil() -> bool:
        saved.append(diverging.step)
        if diverging.step == 8:
            diverging.objective.student.output.weight.data.mul_(300)
        return False

    diverging.stop = spoil
    with pytest.raises(
        DivergedError, match=r"ar_loss is .* far above the 3.47 of guessing among 32 codes .*step-000000006.pt holds"
    ):
        diverging.train()
    assert trainer(stores, tmp_path, {}).step == 6


def test_the_learning_rate() -> None:
    spec = tiny(optim__lr=0.1, optim__batch_size=64, optim__warmup_steps=4, optim__schedule="cosine").optim
    assert peak_lr(spec) == 0.1 * 64 / 256
    rates = [lr_at(step, 20, spec) for step in range(20)]
    assert rates[0] == peak_lr(spec) / 4 and rates[3] == peak_lr(spec) == max(rates)
    assert rates[4:] == sorted(rates[4:], reverse=True) and rates[-1] < 0.02 * peak_lr(spec)


def test_weight_decay_touches_matrices_only() -> None:
    layer = torch.nn.Linear(3, 2)
    groups = build_adamw(layer.parameters(), tiny().optim).param_groups
    assert [(group["weight_decay"], [p.ndim for p in group["params"]]) for group in groups] == [(0.05, [2]), (0.0, [1])]


def test_views_are_distinct_and_all_are_used() -> None:
    drawn = np.stack([distinct_views(0, step, 50, 2, 10) for step in range(20)])
    assert (drawn[..., 0] != drawn[..., 1]).all()
    assert set(drawn.ravel()) == set(range(10))
    assert sorted(distinct_views(0, 0, 1, 10, 10)[0]) == list(range(10))


def test_a_model_that_learns_no_class_is_validated_and_sampled_without(
    stores: tuple[CodeStore, CodeStore], tmp_path: Path
) -> None:
    """A class's row of the table keeps its first values; what was trained is the null label's."""
    made = trainer(stores, tmp_path, {}, model__class_dropout_prob=1.0)
    made.train()
    labels = made.test.labels
    found = made.validation_nll()
    made.test.labels = (labels + 1) % made.spec.data.num_classes
    assert made.validation_nll() == found
    seen: list[torch.Tensor] = []
    ctx: Any = SimpleNamespace(spec=made.spec, device=torch.device("cpu"))

    def sampler(labels: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        seen.append(labels)
        return torch.zeros(len(labels), made.spec.sequence_length, dtype=torch.long)

    _sampled(ctx, sampler, lambda codes: torch.zeros(len(codes), 1, 28, 28), np.arange(4), slice(0, 4))
    assert seen[0].tolist() == [made.spec.data.num_classes] * 4
