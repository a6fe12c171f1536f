"""Terms of the kinds that other published objectives are of, small: what the contract has to carry."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from star.objectives.backbone import Backbone, Features, StudentOutput
from star.objectives.batch import Batch
from star.objectives.projector import projector
from star.objectives.term import TeacherReads, Term


class Noise(Term):
    """Each code that is fed is replaced by another with a probability that falls to nothing; what is predicted stays."""

    name = "noise"
    changes = frozenset({"inputs"})

    def draw(self, batch: Batch, generator: torch.Generator) -> None:
        codes = batch.codes[:, : batch.student_views]
        replaced = torch.rand(codes.shape, generator=generator) < 0.5 * (1 - batch.progress)
        batch.inputs = torch.where(replaced, torch.randint(32, codes.shape, generator=generator), codes)
        batch.drawn[self.name] = replaced


class Cluster(Term):
    """The probability of a code's cluster, from the logits alone."""

    name = "cluster"
    loss_names = ("cluster_loss",)

    def targets(self, states: Features | None, batch: Batch, rows: slice) -> Tensor:
        assert states is None
        return batch.codes[rows, : batch.student_views] // 8

    def loss(self, out: StudentOutput, targets: Tensor | None, batch: Batch, rows: slice) -> dict[str, Tensor]:
        assert targets is not None
        logits = out.logits.unflatten(-1, (-1, 8)).logsumexp(-1)
        summed = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
        return {"cluster_loss": summed / batch.codes[:, : batch.student_views].numel()}


class Align(Term):
    """Two layers, each through a projector of its own, against a stored map of the image's view; leaves out replaced codes."""

    name = "align"
    loss_names = ("align_loss",)
    layers = (1, 2)
    outputs = 6

    def build(self, student: Backbone) -> nn.Module:
        return nn.ModuleList(projector(student.dim, self.outputs, hidden=8) for _ in self.layers)

    def read(self, states: Features, batch: Batch, rows: slice) -> Tensor:
        assert isinstance(self.head, nn.ModuleList)
        return torch.stack(
            [head(states.layer_features[at]) for head, at in zip(self.head, self.layers, strict=True)], 1
        )

    def targets(self, states: Features | None, batch: Batch, rows: slice) -> Tensor:
        assert batch.images is not None and batch.views is not None
        views, images = (
            batch.views[rows, : batch.student_views].to(batch.codes.device),
            batch.images.to(batch.codes.device),
        )
        place = torch.arange(batch.codes.shape[-1], device=views.device)[:, None] * torch.arange(
            1, 1 + self.outputs, device=views.device
        )
        return torch.sin(images[rows, None, None, None] + 0.7 * views[..., None, None] + place)

    def weight_at(self, progress: float) -> float:
        return 2.0 if progress < 0.5 else 1.0

    def loss(self, out: StudentOutput, targets: Tensor | None, batch: Batch, rows: slice) -> dict[str, Tensor]:
        assert targets is not None
        clean = ~batch.drawn["noise"][rows].flatten(0, 1)[:, None] if "noise" in batch.drawn else True
        apart = 1 - F.cosine_similarity(out.read[self.name], targets.flatten(0, 1)[:, None], dim=-1)
        return {"align_loss": (apart * clean).sum() / batch.codes[:, : batch.student_views].numel()}


class Foresight(Term):
    """The state of a position against the teacher's of the next, at a layer below the last; a drawn half of the positions."""

    name = "foresight"
    loss_names = ("foresight_loss",)
    layers = (1,)
    teacher = TeacherReads(layers=(1,))

    def draw(self, batch: Batch, generator: torch.Generator) -> None:
        batch.drawn[self.name] = torch.randperm(batch.codes.shape[-1] - 1, generator=generator)[:4]

    def build(self, student: Backbone) -> nn.Module:
        return projector(student.dim, student.dim, hidden=8)

    def read(self, states: Features, batch: Batch, rows: slice) -> Tensor:
        assert self.head is not None
        found: Tensor = self.head(states.layer_features[1][:, batch.drawn[self.name]])
        return found

    def targets(self, states: Features | None, batch: Batch, rows: slice) -> Tensor:
        assert states is not None and states.layer_features[1].shape[1] == batch.student_views
        return states.layer_features[1][:, :, batch.drawn[self.name] + 1]

    def loss(self, out: StudentOutput, targets: Tensor | None, batch: Batch, rows: slice) -> dict[str, Tensor]:
        assert targets is not None
        apart = 1 - F.cosine_similarity(out.read[self.name].view_as(targets), targets, dim=-1)
        return {"foresight_loss": apart.sum() / (len(batch.codes) * batch.student_views * 4)}


class Averaged(Term):
    """Through a head of named parts, against what the average of that head makes of the teacher's states."""

    name = "averaged"
    loss_names = ("averaged_loss",)
    layers = (2,)
    teacher = TeacherReads(layers=(2,), all_views=True)
    averages_head = True

    def build(self, student: Backbone) -> nn.Module:
        return nn.ModuleDict({"first": nn.Linear(student.dim, 8), "second": nn.Linear(8, 6)})

    @staticmethod
    def through(head: nn.Module | None, states: Tensor) -> Tensor:
        assert isinstance(head, nn.ModuleDict)
        found: Tensor = head["second"](head["first"](states).tanh())
        return found

    def read(self, states: Features, batch: Batch, rows: slice) -> Tensor:
        return self.through(self.head, states.layer_features[2])

    def targets(self, states: Features | None, batch: Batch, rows: slice) -> Tensor:
        assert states is not None
        return self.through(self.head_average, states.layer_features[2])[:, : batch.student_views]

    def loss(self, out: StudentOutput, targets: Tensor | None, batch: Batch, rows: slice) -> dict[str, Tensor]:
        assert targets is not None
        apart = (out.read[self.name].view_as(targets) - targets).square().mean(-1)
        return {"averaged_loss": apart.sum() / batch.codes[:, : batch.student_views].numel()}


def toy_terms() -> list[Term]:
    """New ones of each kind."""
    return [Noise(), Cluster(), Align(), Foresight(), Averaged()]
