"""The trainer: resumed runs repeat themselves bit for bit, a damaged checkpoint costs steps and not the run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from star.data.codes import CodeStore, distinct_views
from star.errors import Stopped
from star.train.guard import DivergedError
from star.train.optim import build_adamw, lr_at, peak_lr
from star.train.trainer import Trainer
from tests.helpers import tiny, write_store

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
    **changes: object,
) -> Trainer:
    spec = tiny(
        optim__steps=STEPS, resources__checkpoint_every=3, data__train_images=40, score__num_reference=40, **changes
    )
    made = Trainer(
        spec, *stores, folder, torch.device("cpu"), lambda step, metrics: None, lambda done, total: None, stop
    )
    plain = made.train_step

    def watched() -> dict[str, torch.Tensor]:
        metrics = plain()
        losses[made.step] = metrics["loss"].item()
        return metrics

    made.train_step = watched  # type: ignore[method-assign]
    return made


@pytest.mark.parametrize("stop_after", [1, 3, 7, 11])
def test_a_stopped_run_goes_on_bit_for_bit(
    stores: tuple[CodeStore, CodeStore], tmp_path: Path, stop_after: int
) -> None:
    whole: Losses = {}
    straight = trainer(stores, tmp_path / "a", whole)
    result = straight.train()
    parts: Losses = {}
    with pytest.raises(Stopped):
        trainer(stores, tmp_path / "b", parts, lambda: len(parts) == stop_after).train()
    resumed = trainer(stores, tmp_path / "b", parts)
    assert resumed.step == stop_after
    assert resumed.train() == result
    assert parts == whole and len(whole) == STEPS
    for a, b in zip(straight.objective.state_dict().values(), resumed.objective.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_a_damaged_checkpoint_falls_back_to_the_one_before(stores: tuple[CodeStore, CodeStore], tmp_path: Path) -> None:
    losses: Losses = {}
    with pytest.raises(Stopped):
        trainer(stores, tmp_path, losses, lambda: len(losses) == 7).train()
    newest = max(tmp_path.glob("step-*.pt"))
    assert newest.name == "step-000000007.pt"
    newest.write_bytes(newest.read_bytes()[:1000])
    assert trainer(stores, tmp_path, {}).step == 6


def test_micro_batches_train_the_same(stores: tuple[CodeStore, CodeStore], tmp_path: Path) -> None:
    still = {f"model__{name}_dropout": 0.0 for name in ("token", "residual", "ffn")}
    whole, parts = Losses(), Losses()
    trainer(stores, tmp_path / "a", whole, **still).train()
    trainer(stores, tmp_path / "b", parts, **still, resources__micro_batch_size=3).train()
    assert list(parts.values()) == pytest.approx(list(whole.values()), rel=1e-4)


def test_a_loss_that_is_no_number_stops_the_run(stores: tuple[CodeStore, CodeStore], tmp_path: Path) -> None:
    diverging = trainer(stores, tmp_path, {})
    diverging.objective.student.output.weight.data.fill_(float("nan"))
    with pytest.raises(DivergedError, match="lower optim.lr"):
        diverging.train()


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
