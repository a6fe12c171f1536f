"""Terms that have the model run on something else than codes in raster order, token by token, in double precision."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from star.model.gpt import all_rotations, rope_table
from star.objectives.batch import Batch
from star.objectives.next_token import NextToken
from star.objectives.objective import Objective
from star.objectives.st_ar import st_ar
from star.objectives.term import Term
from star.spec.base import FieldError
from tests.numerics.published import ARRANGING, EVEN, FIELDS, SETTING, term
from tests.numerics.test_terms import IMAGES, METHOD, batch_of, gradients, objective_of

GRID, LENGTH = 4, 16


def computed(*terms: Term, progress: float = 0.3, views: int = 2) -> tuple[Objective, Batch, dict[str, Tensor]]:
    objective = objective_of([NextToken(), *terms], GRID)
    batch = batch_of([NextToken(), *terms], views, progress, GRID)
    return objective, batch, objective.losses(batch, objective.targets(batch))


def sequences(batch: Batch) -> list[tuple[int, int]]:
    return [(image, view) for image in range(IMAGES) for view in range(batch.student_views)]


def nll(model: Any, state: Tensor, code: Tensor) -> float:
    return -model.output(state).log_softmax(-1)[code].item()


@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("views", [1, 2])
def test_order(noisy: bool, views: int) -> None:
    """Each input at its own cell's position with the row of the cell that it is to predict, times the chance of an order."""
    own = term("order", EVEN)
    objective, batch, losses = computed(*([term("noise", EVEN)] if noisy else []), own, progress=0.3, views=views)
    model, head, order = objective.student, own.head, batch.drawn["order"]
    assert any(not torch.equal(one, torch.arange(LENGTH)) for one in order)
    assert all(sorted(one.tolist()) == list(range(LENGTH)) for one in order)
    rotations = all_rotations(GRID, 8, 10000).double()
    chance, found = (0.9 - 0.3) / (0.9 - 0.1), []
    fed = batch.codes if batch.inputs is None else batch.inputs
    for image, view in sequences(batch):
        cells = order[image].tolist()
        tokens = [model.cls_embedding(batch.labels[image, view][None])[0, 0]]
        tokens += [model.tok_embeddings(fed[image, view, cell]) for cell in cells[:-1]]
        x = torch.stack([token + chance * head.rows[cell] for token, cell in zip(tokens, cells, strict=True)])  # type: ignore[union-attr, index]
        places = [0, *(cell + 1 for cell in cells[:-1])]
        final = model.run(x[None], rotations[:, places]).final[0]
        found += [nll(model, final[at], batch.codes[image, view, cell]) for at, cell in enumerate(cells)]
    assert losses["ar_loss"].item() == pytest.approx(sum(found) / len(found), abs=1e-12)


def test_orders_end_in_raster_order() -> None:
    own: Any = term("order", EVEN, start=0.5, end=0.75)
    assert [own.chance(at) for at in (0.0, 0.49, 0.5, 0.625, 0.75, 0.99)] == [1.0, 1.0, 1.0, 0.5, 0.0, 0.0]
    assert own.__class__(own.config(weight=1, start=0.5, end=0.5), EVEN).chance(0.5) == 0.0, "no slope"
    _, batch, losses = computed(own, progress=0.8)
    assert torch.equal(batch.drawn["order"], torch.arange(LENGTH).expand(IMAGES, -1))
    _, _, plain = computed(progress=0.8)
    torch.testing.assert_close(losses["ar_loss"], plain["ar_loss"], atol=1e-12, rtol=0)
    _, half, _ = computed(own, progress=0.625)
    raster = (half.drawn["order"] == torch.arange(LENGTH)).all(-1).sum()
    assert 0 < raster < IMAGES


def test_the_teacher_sees_the_students_order() -> None:
    """ST-AR's terms beside random orders: with equal weights and nothing hidden, the masked loss is nothing."""
    terms = [*st_ar(METHOD.model_copy(update={"mask_ratio": 0.0, "contrastive_weight": 0.0}), 1), term("order", EVEN)]
    objective = objective_of(terms, GRID)
    assert objective.teacher is not None
    objective.teacher.copy.load_state_dict(objective.student.state_dict())
    average, head = terms[-1].head_average, terms[-1].head
    assert average is not None and head is not None
    average.load_state_dict(head.state_dict())
    batch = batch_of(terms, 2, 0.3, GRID)
    losses = objective.losses(batch, objective.targets(batch))
    assert losses["mim_loss"].item() == pytest.approx(0.0, abs=1e-9)
    average.rows += 1.0  # type: ignore[operator]
    assert objective.losses(batch, objective.targets(batch))["mim_loss"].item() > 1e-3, "it has rows of its own"


def test_coarse() -> None:
    """Means of patches of four codes on a grid of half the side; an output predicts the four codes of the next patch."""
    objective, batch, losses = computed(term("coarse", EVEN), progress=0.49)
    model, rotations, found = objective.student, rope_table(2, 8, 10000).double(), []
    for image, view in sequences(batch):
        codes = batch.codes[image, view].view(GRID, GRID)
        patches = [codes[row : row + 2, column : column + 2].flatten() for row in (0, 2) for column in (0, 2)]
        tokens = [model.cls_embedding(batch.labels[image, view][None])[0, 0]]
        tokens += [model.tok_embeddings(patch).mean(0) for patch in patches[:-1]]
        final = model.run(torch.stack(tokens)[None], rotations).final[0]
        found += [nll(model, final[at], code) for at, patch in enumerate(patches) for code in patch]
    assert losses["ar_loss"].item() == pytest.approx(sum(found) / len(found), abs=1e-12)
    _, _, after = computed(term("coarse", EVEN), progress=0.5)
    _, _, plain = computed(progress=0.5)
    torch.testing.assert_close(after["ar_loss"], plain["ar_loss"], atol=1e-12, rtol=0)


@pytest.mark.parametrize("window", [2, 3])
def test_registers(window: int) -> None:
    """A register as the last token of the codes that it sees; what the codes predict is what it is without registers."""
    own = term("registers", EVEN, window=window, share=0.25)
    objective, batch, losses = computed(own)
    logits = objective.student(batch.codes.flatten(0, 1), batch.labels.flatten())
    plain = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.codes.flatten())
    torch.testing.assert_close(losses["ar_loss"], plain, atol=1e-12, rtol=0)
    model, found, offsets = objective.student, [], set()
    vector = own.head.vector  # type: ignore[union-attr]
    for image, view in sequences(batch):
        drawn = batch.drawn["registers"][image, view].tolist()
        assert len({code for code, _ in drawn}) == len(drawn) == 4
        (offset,) = {cell - code for code, cell in drawn}
        offsets.add(offset)
        codes = batch.codes[image, view]
        for code, cell in drawn:
            assert 1 <= code and cell <= LENGTH
            tokens = [model.cls_embedding(batch.labels[image, view][None])[0, 0]]
            tokens += [model.tok_embeddings(one) for one in codes[:code]] + [vector]
            rope = model.rope[:, [*range(code + 1), cell - 1]]
            final = model.run(torch.stack(tokens)[None], rope).final[0]
            found.append(nll(model, final[-1], codes[cell - 1]))
    assert losses["registers_loss"].item() == pytest.approx(sum(found) / len(found), abs=1e-12)
    assert len(offsets) > 2 and offsets <= {
        row * GRID + column for row in range(window) for column in range(window)
    } - {0}


@pytest.mark.parametrize("name", ARRANGING)
@pytest.mark.parametrize("dropout", [False, True])
def test_passes_of_any_size_give_the_whole_batch(name: str, dropout: bool) -> None:
    objective, batch, losses = computed(own := term(name, EVEN))
    if dropout:
        batch.seeds = torch.arange(2 * IMAGES, dtype=torch.int32).view(IMAGES, 2)
    whole = gradients(objective, batch, IMAGES)
    assert set(own.loss_names) <= set(losses)
    for each, parameter in objective.learner.named_parameters():
        assert whole[each].abs().sum() > 0, f"{each} {tuple(parameter.shape)} is not trained"
    for micro in (1, 4):
        torch.testing.assert_close(gradients(objective, batch, micro), whole, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("other", [name for name in FIELDS if name not in ("noise", "ema")])
@pytest.mark.parametrize("name", ARRANGING)
def test_terms_that_go_by_raster_order_are_refused_beside_them(name: str, other: str) -> None:
    with pytest.raises(
        ValueError, match=f"{name} changes the (order|sequence) .* and {other} goes by codes in raster order"
    ):
        objective_of([NextToken(), term(name, EVEN), term(other, EVEN)], GRID)


@pytest.mark.parametrize(
    "name, beside", [("coarse", "mim"), ("registers", "mim"), ("coarse", "order"), ("order", "coarse")]
)
def test_another_sequence_suits_neither_st_ar_nor_another_order(name: str, beside: str) -> None:
    others = [term(beside, EVEN)] if beside in ARRANGING else st_ar(METHOD, 1)[1:]
    with pytest.raises(ValueError, match="goes by codes in raster order"):
        objective_of([NextToken(), term(name, EVEN), *others], GRID)


@pytest.mark.parametrize(
    "name, fields, setting, told",
    [
        ("coarse", {}, SETTING, "2 does not cut a grid of 3 x 3"),
        ("coarse", {"patch": 4}, EVEN, "4 does not cut a grid of 4 x 4"),
        ("registers", {"window": 4}, EVEN, "4 leads 15 cells on, which leaves 1 of 16 places for 5 registers"),
        (
            "registers",
            {"window": None, "share": 0.9},
            EVEN,
            "2 leads 5 cells on, which leaves 11 of 16 places for 14 registers",
        ),
        ("order", {"start": 0.6, "end": 0.5}, EVEN, "0.5 is before start = 0.6"),
    ],
)
def test_what_does_not_fit_is_refused(name: str, fields: dict[str, Any], setting: Any, told: str) -> None:
    with pytest.raises((FieldError, ValueError), match=told):
        term(name, setting, **fields)
