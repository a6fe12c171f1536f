"""The contract of terms, kept by terms of other kinds than ST-AR's; tests/numerics/test_ranks.py has them on ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from star.model.gpt import GPT
from star.objectives.backbone import StudentOutput
from star.objectives.batch import Batch, ClassDropout, draw_batch
from star.objectives.next_token import NextToken
from star.objectives.objective import Objective
from star.objectives.st_ar import st_ar
from star.objectives.term import Term
from star.pipeline.config.model import ModelSpec
from star.pipeline.config.selfguided import SelfGuidedSpec
from tests.numerics.toy_terms import Align, Cluster, Foresight, Noise, toy_terms

IMAGES = 6
METHOD = SelfGuidedSpec(num_positions=3, projector_hidden=8)


def batch_of(terms: Sequence[Term], student_views: int = 2, progress: float = 0.0, grid: int = 3) -> Batch:
    torch.manual_seed(3)
    codes, labels = torch.randint(32, (IMAGES, 2, grid**2)), torch.randint(10, (IMAGES,))
    generator = torch.Generator().manual_seed(1)
    store = {"images": torch.arange(IMAGES), "stored_views": torch.arange(2).expand(IMAGES, 2)}
    return draw_batch(terms, codes, labels, student_views, ClassDropout(10), generator, progress=progress, **store)


def objective_of(terms: Sequence[Term], grid: int = 3) -> Objective:
    torch.manual_seed(0)
    no_dropout = {"token_dropout": 0.0, "residual_dropout": 0.0, "ffn_dropout": 0.0}
    model = ModelSpec(n_layer=2, n_head=2, dim=16, ffn_multiple_of=16, **no_dropout)
    objective = Objective(GPT(model, vocab_size=32, num_classes=10, grid=grid), terms).double()
    for parameter in objective.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return objective


def gradients(objective: Objective, batch: Batch, micro: int) -> dict[str, torch.Tensor]:
    """Of every trained parameter, and the losses."""
    objective.zero_grad()
    targets = objective.targets(batch, micro=micro)
    found: dict[str, torch.Tensor] = {}
    for first in range(0, IMAGES, micro):
        losses = objective.losses(batch, targets, slice(first, min(first + micro, IMAGES)))
        losses["loss"].backward()
        found |= {name: found.get(name, torch.zeros(())) + value.detach() for name, value in losses.items()}
    trained = objective.learner.named_parameters()
    return found | {name: parameter.grad for name, parameter in trained if parameter.grad is not None}


@pytest.mark.parametrize("student_views", [1, 2])
@pytest.mark.parametrize("together", [False, True])
def test_passes_of_any_size_give_the_whole_batch(student_views: int, together: bool) -> None:
    """All terms at once, beside ST-AR's, and each alone with the next-code loss."""
    own = toy_terms()
    for terms in [[*st_ar(METHOD, 1), *own]] if together else [[NextToken(), term] for term in own]:
        objective, batch = objective_of(terms), batch_of(terms, student_views)
        whole = gradients(objective, batch, IMAGES)
        assert {name for term in terms for name in term.loss_names} <= set(whole)
        for name, parameter in objective.learner.named_parameters():
            assert name in whole and whole[name].abs().sum() > 0, f"{name} {tuple(parameter.shape)} is not trained"
        for micro in (1, 2, 4):
            torch.testing.assert_close(gradients(objective, batch, micro), whole, atol=1e-9, rtol=1e-9)


def test_what_a_term_draws_is_its_own_affair() -> None:
    """Another term, before or after it, changes nothing of a term's draws, nor of ST-AR's."""
    alone, plain = batch_of([Noise()]), batch_of(st_ar(METHOD, 1))
    both = batch_of([Foresight(), *st_ar(METHOD, 1), Noise()])
    assert alone.inputs is not None and both.inputs is not None and torch.equal(alone.inputs, both.inputs)
    assert torch.equal(alone.drawn["noise"], both.drawn["noise"])
    assert plain.token_mask is not None and both.token_mask is not None
    assert torch.equal(plain.token_mask, both.token_mask) and torch.equal(plain.positions, both.positions)
    assert not torch.equal(both.drawn["noise"].flatten()[:9].int(), both.token_mask.flatten()[:9].int())


def test_the_student_is_fed_what_a_term_says_and_predicts_the_codes() -> None:
    terms = [NextToken(), Noise()]
    objective, batch = objective_of(terms), batch_of(terms)
    assert batch.inputs is not None and not torch.equal(batch.inputs, batch.codes)
    logits = objective.student.output(
        objective.student.features(batch.inputs.flatten(0, 1), batch.labels.flatten()).final
    )
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.codes.flatten())
    torch.testing.assert_close(objective.losses(batch, objective.targets(batch))["loss"], expected)


def test_weights_follow_the_schedule() -> None:
    terms = [NextToken(), Align()]
    objective = objective_of(terms)
    for progress, weight in ((0.0, 2.0), (0.49, 2.0), (0.5, 1.0)):
        batch = batch_of(terms, progress=progress)
        losses = objective.losses(batch, objective.targets(batch))
        torch.testing.assert_close(losses["loss"], losses["ar_loss"] + weight * losses["align_loss"])


@pytest.mark.parametrize(
    "terms, read, views",
    [
        ([NextToken(), Cluster()], "nothing", 0),
        ([NextToken(), Foresight()], "layer 1", 1),
        ([*st_ar(METHOD.model_copy(update={"contrastive_weight": 0.0}), 1), Foresight()], "all", 1),
        ([*st_ar(METHOD.model_copy(update={"mim_weight": 0.0}), 2), Foresight()], "all", 2),
    ],
)
def test_the_teacher_is_run_as_deep_and_on_as_many_views_as_is_read(terms: list[Term], read: str, views: int) -> None:
    objective, seen = objective_of(terms), []
    if objective.teacher is not None:
        copy = objective.teacher.copy
        features, hidden_at = copy.features, copy.hidden_at
        copy.features = lambda codes, *a, **k: (seen.append(("all", len(codes))), features(codes, *a, **k))[1]
        copy.hidden_at = lambda codes, *a: (seen.append((f"layer {a[-1]}", len(codes))), hidden_at(codes, *a))[1]
    objective.targets(batch_of(terms, student_views=1))
    assert seen == ([] if read == "nothing" else [(read, views * IMAGES)])


class Other(Cluster):
    name = "other"


class Louder(Noise):
    name = "louder"


@pytest.mark.parametrize(
    "terms, message",
    [
        ([Cluster(), Cluster()], "cluster and cluster are both called cluster"),
        ([Cluster(), Other()], "cluster and other both have a loss cluster_loss"),
        ([Noise(), Louder()], "noise and louder both change the student's inputs; leave one out"),
    ],
)
def test_terms_that_do_not_go_together_are_refused(terms: list[Term], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        objective_of([NextToken(), *terms])


@pytest.mark.parametrize(
    "made, message",
    [
        (lambda codes: codes[:, :1], r"quiet: draw set batch.inputs of shape \(6, 1, 9\)"),
        (lambda codes: codes.float(), r"quiet: draw set batch.inputs of shape \(6, 2, 9\) and torch.float32; give"),
    ],
)
def test_what_a_term_draws_is_checked(made: Any, message: str) -> None:
    class Quiet(Noise):
        name = "quiet"
        changes = frozenset()

        def draw(self, batch: Batch, generator: torch.Generator) -> None:
            batch.inputs = made(batch.codes)

    with pytest.raises(ValueError, match="quiet: draw set batch.inputs; say so on the class: changes = frozenset"):
        batch_of([Quiet()])
    with pytest.raises(ValueError, match=message):
        batch_of([type("Said", (Quiet,), {"changes": frozenset({"inputs"})})()])


def test_an_error_says_whose_it_is() -> None:
    class Broken(Cluster):
        def loss(self, *arguments: Any) -> dict[str, torch.Tensor]:
            raise KeyError("x")

    terms = [NextToken(), Broken()]
    objective, batch = objective_of(terms), batch_of(terms)
    with pytest.raises(KeyError) as caught:
        objective.losses(batch, objective.targets(batch))
    assert caught.value.__notes__ == ["in loss of the term cluster"]


def test_a_loss_that_was_not_declared_is_refused() -> None:
    class Sly(Cluster):
        def loss(self, *arguments: Any) -> dict[str, torch.Tensor]:
            return {"loss": super().loss(*arguments)["cluster_loss"]}

    terms = [NextToken(), Sly()]
    objective, batch = objective_of(terms), batch_of(terms)
    with pytest.raises(ValueError, match=r"cluster: loss gave \['loss'\], and loss_names are \['cluster_loss'\]"):
        objective.losses(batch, objective.targets(batch))
    with pytest.raises(ValueError, match="a loss cannot be called loss"):
        objective_of([NextToken(), type("Loud", (Cluster,), {"loss_names": ("loss",)})()])


@pytest.mark.parametrize(
    "made, message",
    [
        (lambda value: {"cluster_loss": value.detach()}, "cluster: its loss has no gradient, so it trains nothing"),
        (lambda value: {"cluster_loss": float(value.detach())}, "cluster: loss gave .*; give a tensor for each of"),
        (lambda value: None, "cluster: loss gave None; give a tensor for each of"),
    ],
)
def test_a_loss_that_trains_nothing_is_refused(made: Any, message: str) -> None:
    class Idle(Cluster):
        def loss(self, *arguments: Any) -> Any:
            return made(super().loss(*arguments)["cluster_loss"])

    terms = [NextToken(), Idle()]
    objective, batch = objective_of(terms), batch_of(terms)
    with pytest.raises(ValueError, match=message):
        objective.losses(batch, objective.targets(batch))


def test_a_term_may_have_nothing_to_learn_in_a_step() -> None:
    class Late(Cluster):
        def loss(self, *arguments: Any) -> Any:
            return {"cluster_loss": torch.zeros(())}

    terms = [NextToken(), Late()]
    objective, batch = objective_of(terms), batch_of(terms)
    assert objective.losses(batch, objective.targets(batch))["cluster_loss"] == 0


def test_a_term_that_leaves_is_no_success() -> None:
    class Gone(Cluster):
        def loss(self, *arguments: Any) -> Any:
            raise SystemExit(0)

    terms = [NextToken(), Gone()]
    objective, batch = objective_of(terms), batch_of(terms)
    with pytest.raises(RuntimeError, match=r"loss of the term cluster called sys.exit\(0\)"):
        objective.losses(batch, objective.targets(batch))


def test_modules_of_terms_are_trained_and_in_no_teacher() -> None:
    terms = [NextToken(), Foresight()]
    objective = objective_of(terms)
    assert objective.teacher is not None
    names = {name for name, _ in objective.learner.named_parameters()}
    assert "heads.foresight.0.weight" in names
    assert len(objective.trained_parameters()) == len(names)
    assert not any("heads" in name for name, _ in objective.teacher.named_parameters())
    assert not any("heads" in name for name in objective.student.state_dict())


def test_one_view_is_refused_where_views_are_compared() -> None:
    terms = st_ar(SelfGuidedSpec(projector_hidden=8), contrastive_layer=1)
    codes, labels = torch.zeros(4, 1, 9, dtype=torch.long), torch.arange(4)
    for views in (1, 2):
        with pytest.raises(ValueError, match="hold 1 view of each image, and the inter-view loss compares two or more"):
            batch = draw_batch(
                terms, codes, labels, views, ClassDropout(null_label=10), torch.Generator().manual_seed(0)
            )
            objective_of(terms).losses(batch, objective_of(terms).targets(batch))


class Peek(Term):
    """Looks at the logits without gradient before it computes its loss from them."""

    name = "peek"
    loss_names = ("peek_loss",)

    def loss(self, out: StudentOutput, targets: Tensor | None, batch: Batch, rows: slice) -> dict[str, Tensor]:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            seen = out.logits
        assert seen is out.logits
        codes = batch.codes[rows, : batch.student_views].flatten()
        summed = torch.nn.functional.cross_entropy(seen.flatten(0, 1).float(), codes, reduction="sum")
        return {"peek_loss": summed / batch.codes[:, : batch.student_views].numel()}


def test_logits_are_those_of_the_pass_whoever_asks_first() -> None:
    terms = [NextToken(), Peek()]
    objective, batch = objective_of(terms).float(), batch_of(terms)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = objective.losses(batch, objective.targets(batch))
    assert losses["peek_loss"].requires_grad
    torch.testing.assert_close(losses["peek_loss"], losses["ar_loss"], atol=1e-5, rtol=1e-5)  # both of bf16 products


def test_a_head_learns_from_its_logits_on_a_frozen_transformer() -> None:
    objective = objective_of([NextToken(), Peek()])
    objective.student.requires_grad_(False).output.requires_grad_(True)
    batch = batch_of(objective.terms)
    losses = objective.losses(batch, objective.targets(batch))
    both = [torch.autograd.grad(losses[name], objective.student.output.weight)[0] for name in ("ar_loss", "peek_loss")]
    torch.testing.assert_close(*both, atol=1e-5, rtol=1e-4)


def test_a_head_that_is_more_than_its_weight_is_called() -> None:
    """What is trained is what is sampled, with a hook, with another class, and when the head was replaced."""
    terms = [NextToken(), Peek()]
    objective, batch = objective_of(terms), batch_of(terms)

    def losses() -> list[float]:
        found = objective.losses(batch, objective.targets(batch))
        assert found["ar_loss"].item() == pytest.approx(found["peek_loss"].item(), rel=1e-5)
        return [found["ar_loss"].item()]

    class Scaled(torch.nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) / 4

    seen = losses()
    hook = objective.student.output.register_forward_hook(lambda module, given, out: out / 2)
    seen += losses()
    hook.remove()
    objective.learner.student.output = Scaled(16, 32, bias=False).double()
    seen += losses()
    objective.learner.student.output = torch.nn.Linear(16, 32).double()
    assert len({round(loss, 6) for loss in seen + losses()}) == 4
