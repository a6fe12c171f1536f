"""Multi-token prediction, MTAR (arXiv 2608.25386): further blocks predict the code of the cell below."""

from __future__ import annotations

from typing import Any, cast

from pydantic import Field
from torch import Tensor, nn

from star.model.dropout import layer_seeds
from star.model.gpt import GPT, Block, RMSNorm
from star.objectives import Backbone, Batch, Features, Setting, StudentOutput, Term, TermConfig
from star.objectives.next_token import code_loss

from .costs import block_flops, causal, head_flops


class MtpConfig(TermConfig):
    """`weight` 0.1 as published."""

    blocks: int = Field(2, ge=1, description="blocks like the model's, on its normed last states")


class Mtp(Term):
    """Cross entropy of the code of the cell below the one just read, from the model's last states through blocks and a head.

    The state that has read cell q predicts cell q + g, g the grid's side: T - g codes, none from the condition. Blocks,
    norm and head are the term's own, trained with the model and left out of it; the head begins at zero as the model's
    does.
    """

    name = "mtp"
    version = 1
    config = MtpConfig
    loss_names = ("mtp_loss",)

    def __init__(self, fields: MtpConfig, setting: Setting) -> None:
        setting.needs_neighbours(self.name)
        self.spec, self.setting = fields, setting

    def flops(self) -> float:
        assert self.setting is not None
        predicted = self.setting.length - self.setting.grid
        states = predicted + 1  # the condition's too, which the others attend to
        block = block_flops(self.setting, states, causal(states))
        return 3.0 * (self.spec.blocks * block + head_flops(self.setting, predicted))

    def build(self, student: Backbone) -> nn.Module:
        model = cast(GPT, student)
        self.model, self.grid = model, model.grid
        head = nn.Linear(model.dim, model.output.out_features, bias=False)
        blocks = nn.ModuleList(Block(model.spec) for _ in range(self.spec.blocks))
        for module in blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=model.spec.init_std)
        nn.init.zeros_(head.weight)
        return nn.ModuleDict({"blocks": blocks, "norm": RMSNorm(model.dim, model.spec.norm_eps), "head": head})

    def read(self, states: Features, batch: Batch, rows: slice) -> Tensor:
        """The cross entropy, summed over cells and sequences."""
        head: Any = self.head
        x = states.final[:, : 1 - self.grid]  # the last row's states have nothing below
        rope = self.model.rope[:, : x.shape[1]]
        seeds = None if batch.seeds is None else batch.seeds[rows].flatten()
        for number, block in enumerate(head["blocks"], start=len(self.model.layers) + 1):
            x = block(x, rope, None, layer_seeds(seeds, number))
        normed = head["norm"](x[:, 1:])
        below = batch.codes[rows, : batch.student_views, self.grid :]
        return code_loss(head["head"], normed.flatten(0, 1), below.flatten())

    def loss(self, out: StudentOutput, targets: Tensor | None, batch: Batch, rows: slice) -> dict[str, Tensor]:
        count = len(batch.codes) * batch.student_views * (batch.codes.shape[-1] - self.grid)
        return {"mtp_loss": out.read[self.name] / count}
