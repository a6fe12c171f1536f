"""The losses against the printed formulas, written as loops in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from star.model.gpt import GPT
from star.objectives.batch import Batch, ClassDropout, draw_batch
from star.objectives.contrastive import inter_step_loss, inter_view_loss
from star.objectives.hidden_keys import attend_mask, sample_token_mask
from star.objectives.mim import mim_loss
from star.objectives.objective import Objective
from star.objectives.st_ar import st_ar
from star.pipeline.config.model import ModelSpec
from star.pipeline.config.selfguided import SelfGuidedSpec, num_masked

TEMPERATURE = 0.2


def unit(x: Tensor) -> Tensor:
    return x / x.norm()


def loop_step_loss(z: Tensor, h: Tensor, normalize: bool, form: str) -> list[float]:
    """Eq. 6 term by term: positive is the same view at another position, negatives the other images there."""
    terms, side = [], unit if normalize else (lambda x: x)
    for b in range(len(z)):
        for m in range(z.shape[1]):
            for i in range(z.shape[2]):
                for j in range(z.shape[2]):
                    if i != j:
                        scores = [
                            math.exp(float(side(z[b, m, i]) @ side(h[v, m, j])) / TEMPERATURE) for v in range(len(h))
                        ]
                        ratio = scores[b] / sum(scores)
                        terms.append(-math.log(ratio) if form == "infonce" else -ratio)
    return terms


def loop_view_loss(z: Tensor, h: Tensor, normalize: bool, form: str) -> list[float]:
    """Eq. 7 term by term: positive is another view at the same position."""
    terms, side = [], unit if normalize else (lambda x: x)
    for b in range(len(z)):
        for m in range(z.shape[1]):
            for n in range(h.shape[1]):
                for k in range(z.shape[2]):
                    if m != n:
                        scores = [
                            math.exp(float(side(z[b, m, k]) @ side(h[v, n, k])) / TEMPERATURE) for v in range(len(h))
                        ]
                        ratio = scores[b] / sum(scores)
                        terms.append(-math.log(ratio) if form == "infonce" else -ratio)
    return terms


@pytest.mark.parametrize("form", ["infonce", "ratio"])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("loss, loop", [(inter_step_loss, loop_step_loss), (inter_view_loss, loop_view_loss)])
def test_contrastive_losses_equal_the_formula(loss, loop, normalize: bool, form: str) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    z, h = torch.randn(2, 5, 2, 3, 7, dtype=torch.float64) * 0.3
    expected = sum(loop(z, h, normalize, form))
    assert loss(z, h, 0, TEMPERATURE, normalize, form).item() == pytest.approx(expected, rel=1e-9)
    halves = [loss(z[:2], h, 0, TEMPERATURE, normalize, form), loss(z[2:], h, 2, TEMPERATURE, normalize, form)]
    assert sum(half.item() for half in halves) == pytest.approx(expected, rel=1e-9)


def test_autocast_rounds_no_loss() -> None:
    torch.manual_seed(0)
    z, h = torch.randn(2, 5, 2, 3, 64)
    both = (z, h, 0, 0.2, True, "infonce")
    calls = [lambda: inter_step_loss(*both), lambda: inter_view_loss(*both), lambda: mim_loss(z, h)]
    plain = [call().item() for call in calls]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert [call().item() for call in calls] == plain


def test_mim_loss_equals_the_formula() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(2, 4, 3, 6, dtype=torch.float64)
    token_mask = torch.rand(4, 3) < 0.5
    cosine = [[1 - float(unit(a[i, t]) @ unit(b[i, t])) for t in range(3)] for i in range(4)]
    assert mim_loss(a, b).item() == pytest.approx(sum(map(sum, cosine)), rel=1e-9)
    masked = sum(cosine[i][t] for i in range(4) for t in range(3) if token_mask[i, t])
    assert mim_loss(a, b, token_mask=token_mask).item() == pytest.approx(masked, rel=1e-9)
    squares = sum(float(((a[i, t] - b[i, t]) ** 2).mean()) for i in range(4) for t in range(3))
    assert mim_loss(a, b, "l2").item() == pytest.approx(squares, rel=1e-9)


def objective_and_batch(spec: SelfGuidedSpec, count: int = 6, seed: int = 0) -> tuple[Objective, Batch]:
    """A double-precision objective without dropout, its teacher moved off the student, and one batch."""
    torch.manual_seed(seed)
    model = ModelSpec(
        n_layer=2, n_head=2, dim=16, ffn_multiple_of=16, token_dropout=0.0, residual_dropout=0.0, ffn_dropout=0.0
    )
    student = GPT(model, vocab_size=32, num_classes=10, grid=3)
    objective = Objective(student, st_ar(spec, 1), spec.ema_decay, spec.ema_ramp).double()
    for parameter in objective.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    codes = torch.randint(32, (count, spec.num_views, 9))
    labels = torch.randint(10, (count,))
    generator = torch.Generator().manual_seed(1)
    return objective, draw_batch(objective.terms, codes, labels, spec.student_views, ClassDropout(10), generator)


def test_total_loss_equals_the_plain_formula() -> None:
    """Eq. 8 from the model's own outputs, every part written out."""
    spec = SelfGuidedSpec(num_positions=3, projector_hidden=8, mim_weight=0.7, contrastive_weight=0.4)
    objective, batch = objective_and_batch(spec)
    losses = objective.losses(batch, objective.targets(batch))
    assert objective.teacher is not None and batch.token_mask is not None

    ar, mim, z, h = [], [], torch.zeros(6, 2, 3, 16).double(), torch.zeros(6, 2, 3, 16).double()
    for b in range(6):
        for m in range(2):
            codes, label = batch.codes[b, m][None], batch.labels[b, m][None]
            attend = torch.zeros(9, 9, dtype=torch.bool)
            for query in range(9):
                for key in range(query + 1):
                    attend[query, key] = not batch.token_mask[b, m, key]
            student = objective.student.features(codes, label, attend[None, None], layers=[1])
            teacher = objective.teacher.copy.features(codes, label, layers=[1])
            log_probabilities = F.log_softmax(objective.student.output(student.final), dim=-1)[0]
            ar += [-log_probabilities[t, codes[0, t]].item() for t in range(9)]
            mim += [1 - float(unit(student.final[0, t]) @ unit(teacher.final[0, t])) for t in range(9)]
            positions = batch.positions[:3]
            z[b, m] = objective.learner.heads["contrastive"](student.layer_features[1][0, positions])
            h[b, m] = teacher.layer_features[1][0, positions]
    step, view = loop_step_loss(z, h, True, "infonce"), loop_view_loss(z, h, True, "infonce")
    means = [sum(terms) / len(terms) for terms in (ar, mim, step, view)]
    assert [
        losses[name].item() for name in ("ar_loss", "mim_loss", "inter_step_loss", "inter_view_loss")
    ] == pytest.approx(means, rel=1e-6)
    assert losses["loss"].item() == pytest.approx(means[0] + 0.7 * means[1] + 0.4 / 2 * (means[2] + means[3]), rel=1e-6)


@given(st.integers(1, 6), st.sampled_from(["mean", "sum"]), st.booleans())
@settings(max_examples=12, deadline=None)
def test_micro_batches_change_neither_loss_nor_gradient(micro: int, reduction: str, single_view: bool) -> None:
    spec = SelfGuidedSpec(
        num_positions=3, projector_hidden=8, reduction=reduction, student_views=1 if single_view else 2
    )
    objective, batch = objective_and_batch(spec)
    targets = objective.targets(batch)
    objective.losses(batch, targets)["loss"].backward()
    whole = [parameter.grad.clone() for parameter in objective.trained_parameters() if parameter.grad is not None]
    objective.zero_grad()
    total = 0.0
    for first in range(0, 6, micro):
        loss = objective.losses(batch, targets, slice(first, min(first + micro, 6)))["loss"]
        loss.backward()
        total += loss.item()
    assert total == pytest.approx(objective.losses(batch, targets)["loss"].item(), abs=1e-9)
    parts = [parameter.grad for parameter in objective.trained_parameters() if parameter.grad is not None]
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)


def test_hidden_positions_cannot_be_seen() -> None:
    """Changing a code at a hidden position changes no other position's output."""
    objective, batch = objective_and_batch(SelfGuidedSpec(mask_ratio=0.4))
    assert batch.token_mask is not None
    attend = attend_mask(batch.token_mask[0, :1], mask_self=True)
    codes, labels = batch.codes[0, :1], batch.labels[0, :1]
    place = int(batch.token_mask[0, 0].nonzero()[0, 0])  # an input position; it holds code number `place`
    changed = codes.clone()
    changed[0, place - 1] = (changed[0, place - 1] + 1) % 32
    with torch.no_grad():
        before, after = (objective.student.features(c, labels, attend).final[0] for c in (codes, changed))
    others = [t for t in range(9) if t != place]
    torch.testing.assert_close(before[others], after[others], atol=0, rtol=0)
    assert not torch.equal(before[place], after[place])


@given(st.integers(2, 300), st.floats(0, 0.99))
@settings(max_examples=50, deadline=None)
def test_exactly_the_ratio_is_hidden_and_never_the_condition(length: int, ratio: float) -> None:
    token_mask = sample_token_mask((5,), length, ratio, torch.Generator().manual_seed(0))
    assert not token_mask[:, 0].any()
    assert token_mask.sum(1).tolist() == [num_masked(ratio, length)] * 5 == [round(ratio * (length - 1))] * 5


def test_class_dropout_is_shared_by_views_and_teacher() -> None:
    spec = SelfGuidedSpec()
    codes, labels = torch.zeros(400, 2, 9, dtype=torch.long), torch.ones(400, dtype=torch.long)
    shared, own = (
        draw_batch(
            st_ar(spec, 1), codes, labels, 2, ClassDropout(10, 0.3, per), torch.Generator().manual_seed(0)
        ).labels
        for per in ("image", "view")
    )
    assert torch.equal(shared[:, 0], shared[:, 1])
    assert 0.2 < (shared == 10).double().mean().item() < 0.4
    assert not torch.equal(own[:, 0], own[:, 1])


def test_a_loss_of_weight_zero_is_not_built() -> None:
    plain, batch = objective_and_batch(SelfGuidedSpec(mim_weight=0.0, contrastive_weight=0.0))
    assert plain.teacher is None and not plain.learner.heads and batch.token_mask is None
    assert set(plain.losses(batch, plain.targets(batch))) == {"loss", "ar_loss"}
    mim, batch = objective_and_batch(SelfGuidedSpec(contrastive_weight=0.0))
    assert not mim.learner.heads and set(mim.losses(batch, mim.targets(batch))) == {"loss", "ar_loss", "mim_loss"}


def test_the_teacher_follows_at_its_decay() -> None:
    objective, _ = objective_and_batch(SelfGuidedSpec(ema_decay=0.9))
    assert objective.teacher is not None
    own, source = objective.teacher.copy.output.weight, objective.student.output.weight
    expected = 0.9 * own + 0.1 * source
    objective.update_teacher(step=10_000)
    torch.testing.assert_close(own, expected)
    ramped, _ = objective_and_batch(SelfGuidedSpec(ema_decay=0.99, ema_ramp=True))
    assert ramped.teacher is not None
    assert [ramped.teacher.decay_at(step) for step in (0, 90, 10_000)] == [0.1, 0.91, 0.99]


@pytest.mark.parametrize(
    "changes, shape, message",
    [
        ({}, (4, 1, 49), "codes hold 1 view of each image, and the inter-view loss compares two"),
        (
            {"inter_view": False, "num_positions": 60},
            (4, 1, 49),
            "codes have 49 positions, fewer than num_positions=60",
        ),
        ({}, (1, 2, 49), "codes hold 1 image, and the contrastive losses compare it with others"),
        ({"mask_ratio": 0.01, "mim_positions": "masked"}, (4, 2, 49), "mask_ratio=0.01 hides none of 48 positions"),
    ],
)
def test_a_loss_with_nothing_to_compare_is_refused_not_nan(changes: Any, shape: tuple[int, ...], message: str) -> None:
    spec = SelfGuidedSpec(**changes)
    with pytest.raises(ValueError, match=message):
        for term in st_ar(spec, 1):
            term.check(*shape)
    generator = torch.Generator().manual_seed(0)
    with pytest.raises(ValueError, match=message):
        codes, labels = torch.zeros(shape, dtype=torch.long), torch.zeros(shape[0], dtype=torch.long)
        draw_batch(st_ar(spec, 1), codes, labels, spec.student_views, ClassDropout(10), generator)
