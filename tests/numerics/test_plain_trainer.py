"""The trainer equals one that was written a second time, plainly and in float64: draws, masks, losses, AdamW, schedule, teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from star.data.codes import CodeStore
from star.train.trainer import Trainer
from tests.helpers import tiny, write_store
from tests.numerics.plain_trainer import Models, PlainTrainer

STEPS = 5
IMAGES = 11
"""Of which four make a batch: an epoch is two steps, and three images wait for the next."""
EVERY: dict[str, dict[str, Any]] = {
    "st-ar": {},
    "baseline": {
        "selfguided__mim_weight": 0.0,
        "selfguided__contrastive_weight": 0.0,
        "selfguided__num_views": 1,
        "selfguided__student_views": 1,
        "optim__warmup_steps": 0,
        "optim__schedule": "constant",
    },
    "as printed": {
        "selfguided__contrastive_form": "ratio",
        "selfguided__reduction": "sum",
        "selfguided__normalize": False,
        "selfguided__temperature": 1.7,
        "selfguided__mim_distance": "l2",
        "selfguided__mim_tap": "pre_norm",
        "selfguided__mask_self": False,
        "selfguided__teacher_projector": True,
        "model__class_dropout_per": "view",
        "optim__grad_clip": 0.0,
    },
    "mim, one of three views, masked positions": {
        "selfguided__contrastive_weight": 0.0,
        "selfguided__num_views": 3,
        "selfguided__student_views": 1,
        "selfguided__mim_distance": "smooth_l1",
        "selfguided__mim_positions": "masked",
        "selfguided__ema_ramp": False,
        "model__token_dropout": 0.0,
    },
    "steps alone, masked without mim": {
        "selfguided__mim_weight": 0.0,
        "selfguided__mask_when": "always",
        "selfguided__inter_view": False,
        "selfguided__single_contrastive_scale": 0.8,
        "selfguided__num_views": 3,
        "selfguided__contrastive_layer": 1,
        "model__residual_dropout": 0.0,
        "optim__schedule": "constant",
    },
    "views alone, one linear layer, all ten views": {
        "selfguided__mim_weight": 0.0,
        "selfguided__inter_step": False,
        "selfguided__num_views": 10,
        "selfguided__num_positions": 1,
        "selfguided__projector_layers": 1,
        "selfguided__contrastive_layer": 3,
        "model__ffn_dropout": 0.0,
    },
    "nothing dropped": {
        "model__token_dropout": 0.0,
        "model__residual_dropout": 0.0,
        "model__ffn_dropout": 0.0,
        "model__class_dropout_prob": 0.0,
    },
}
USUAL: dict[str, Any] = {
    "seed": 3,
    "model__n_layer": 3,
    "probe__layer": 1,
    "model__class_dropout_prob": 0.4,
    "selfguided__contrastive_layer": 2,
    "selfguided__mim_weight": 0.7,
    "selfguided__contrastive_weight": 0.4,
    "selfguided__num_positions": 3,
    "selfguided__mask_ratio": 0.3,
    "selfguided__ema_decay": 0.3,
    "selfguided__ema_ramp": True,
    "optim__steps": STEPS,
    "optim__batch_size": 4,
    "optim__lr": 0.5,
    "optim__weight_decay": 0.3,
    "optim__beta1": 0.8,
    "optim__beta2": 0.9,
    "optim__grad_clip": 0.4,
    "optim__warmup_steps": 2,
    "optim__schedule": "cosine",
    "data__num_classes": 10,
    "resources__micro_batch_size": 3,
    "resources__sample_batch_size": 2,
}


def stores(folder: Path) -> tuple[CodeStore, CodeStore, dict[str, np.ndarray]]:
    rng, raw, found = np.random.default_rng(0), {}, []
    for split, count, views in (("train", IMAGES, 10), ("test", 5, 1)):
        raw[f"{split} codes"], raw[f"{split} labels"] = (
            rng.integers(0, 32, (count, views, 49)),
            rng.integers(0, 10, count),
        )
        found.append(write_store(folder / split, raw[f"{split} codes"], raw[f"{split} labels"]))
    return found[0], found[1], raw


def copied(module: torch.nn.Module | None) -> dict[str, torch.Tensor]:
    return {} if module is None else {name: value.clone() for name, value in module.state_dict().items()}


def models_of(trainer: Trainer) -> Models:
    objective = trainer.objective
    return Models(
        copied(objective.student),  # type: ignore[arg-type]
        copied(objective.learner.heads["contrastive"] if "contrastive" in objective.learner.heads else None),
        copied(objective.teacher and objective.teacher.copy),
        copied(objective.head_averages["contrastive"].copy if objective.head_averages else None),
    )


def in_double(trainer: Trainer) -> None:
    """All in float64, the rotary table from float64 angles; weights well away from zero, where losses are alike."""
    trainer.objective.double()
    torch.manual_seed(9)
    for parameter in trainer.objective.parameters():
        parameter.data += 0.15 * torch.randn_like(parameter)
    rates = 10_000.0 ** -torch.arange(2, dtype=torch.float64).div(2)
    cells = torch.arange(48, dtype=torch.float64)
    angles = torch.cat([(cells // 7)[:, None] * rates, (cells % 7)[:, None] * rates], dim=1).repeat_interleave(2, dim=1)
    sign = torch.tensor([-1.0, 1.0], dtype=torch.float64).repeat(4)
    exact = torch.stack([angles.cos(), angles.sin() * sign])
    for model in (trainer.objective.student, trainer.objective.teacher and trainer.objective.teacher.copy):
        if model is not None:
            torch.testing.assert_close(model.rope[:, 1:], exact, atol=1e-6, rtol=0)
            model.rope[:, 1:] = exact


@pytest.mark.parametrize("name", EVERY)
def test_the_trainer_equals_the_plain_one(name: str, tmp_path: Path) -> None:
    train, test, raw = stores(tmp_path)
    spec = tiny(**{path: value for path, value in (USUAL | EVERY[name]).items() if "__" in path})
    spec = spec.model_copy(update={"seed": USUAL["seed"]})
    recorded: list[dict[str, float]] = []
    trainer = Trainer(
        *(spec, train, test, tmp_path / "checkpoints", torch.device("cpu")),
        *(lambda step, metrics: None, lambda done, total: None, lambda: False),
    )
    in_double(trainer)
    plain = PlainTrainer(
        spec.model_dump(), spec.contrastive_layer, models_of(trainer), raw["train codes"], raw["train labels"]
    )
    for step in range(STEPS):
        recorded.append({key: value.item() for key, value in trainer.train_step().items()})
        trainer.step += 1
        assert recorded[-1] == pytest.approx(plain.step(step), rel=1e-9, abs=1e-12), f"step {step}"
    for kind, mine in vars(models_of(trainer)).items():
        theirs = getattr(plain.models, kind)
        assert mine.keys() == theirs.keys()
        for key, value in mine.items():
            torch.testing.assert_close(value, theirs[key].detach(), rtol=1e-7, atol=1e-9, msg=f"{kind} {key}")
    # float32's logits would do, so would not another label
    assert trainer.validation_nll() == pytest.approx(plain.validation(raw["test codes"], raw["test labels"]), rel=1e-6)
