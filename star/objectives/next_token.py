"""Next-code prediction (Eq. 2): what every run trains on."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from star.objectives.backbone import StudentOutput
from star.objectives.batch import Batch
from star.objectives.precision import at_least_fp32
from star.objectives.term import Term


class NextToken(Term):
    """Cross entropy of the codes, a mean over all positions of all student sequences."""

    name = "next_token"
    loss_names = ("ar_loss",)

    def loss(self, out: StudentOutput, targets: Tensor | None, batch: Batch, rows: slice) -> dict[str, Tensor]:
        codes = batch.codes[rows, : batch.student_views]
        count = len(batch.codes) * codes[0].numel()
        summed = F.cross_entropy(at_least_fp32(out.logits.flatten(0, 1)), codes.flatten(), reduction="sum")
        return {"ar_loss": summed / count}
