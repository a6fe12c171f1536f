"""Codebook features, reAR (arXiv 2510.04450): states are to hold the tokenizer's vector of a code, read or to come."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from star.objectives import Backbone, Batch, Features, FieldError, LayerRef, Setting, StudentOutput, Term, TermConfig
from star.objectives.mim import mim_loss
from star.objectives.precision import at_least_fp32
from star.plugin import Job

from .projectors import hidden_width, mlp_flops


class CodebookConfig(TermConfig):
    """Where the vectors are looked for; `weight` is that of both losses (1.0 in the paper)."""

    encode_layer: LayerRef | None = Field(1, description="layer that is to hold the code just read; null: none")
    decode_layer: LayerRef | None = Field("~3/4", description="layer that is to hold the code to come; null: none")
    leave_out_replaced: bool = Field(
        True,
        description="with noise, codes that were replaced are no targets of the first loss, as in reAR's code; its text says false",
    )


class Codebook(Term):
    """Two losses: mean of 1 - cos(phi_1(h_{p+1}), e(x_p)), and of 1 - cos(phi_2(h_p), e(x_p)).

    h_p is the state that predicts cell p, so h_{p+1} has just read x_p; e(x) is the row of the tokenizer's codebook. phi
    are MLPs of two linear layers with GELU between them, as the paper says; its code has three and SiLU. The last code
    is never read, so the first mean is over T - 1 cells.
    """

    name = "codebook"
    version = 1
    config = CodebookConfig
    after = ("tokenizer",)
    loss_names = ("codebook_encode_loss", "codebook_decode_loss")

    def __init__(self, fields: CodebookConfig, setting: Setting) -> None:
        if fields.encode_layer is None and fields.decode_layer is None:
            raise FieldError("encode_layer", "is null as decode_layer is, and nothing is left; give one")
        if fields.encode_layer is not None:
            setting.needs_neighbours(self.name)
        self.spec, self.setting = fields, setting
        asked = {"encode": fields.encode_layer, "decode": fields.decode_layer}
        given = {name: layer for name, layer in asked.items() if layer is not None}
        self.at = {name: setting.layer(layer, f"{name}_layer") for name, layer in given.items()}
        self.layers = tuple(dict.fromkeys(self.at.values()))

    def prepare(self, job: Job) -> None:
        self.vectors: Tensor = job.tokenizer().codebook().float()

    def flops(self) -> float:
        assert self.setting is not None
        cells = self.setting.length * len(self.at) - ("encode" in self.at)
        return mlp_flops([self.setting.dim, hidden_width(self.setting.dim), self.setting.codebook_dim], cells)

    def build(self, student: Backbone) -> nn.Module:
        width, outputs = hidden_width(student.dim), self.vectors.shape[1]
        return nn.ModuleDict({name: _mlp(student.dim, width, outputs) for name in self.at})

    def read(self, states: Features, batch: Batch, rows: slice) -> Tensor:
        """What each loss compares, one after another, (N, cells of both, d)."""
        assert isinstance(self.head, nn.ModuleDict)
        found = {name: states.layer_features[layer] for name, layer in self.at.items()}
        if "encode" in found:
            found["encode"] = found["encode"][:, 1:]
        return torch.cat([self.head[name](x) for name, x in found.items()], dim=1)

    def loss(self, out: StudentOutput, targets: Tensor | None, batch: Batch, rows: slice) -> dict[str, Tensor]:
        codes = batch.codes[rows, : batch.student_views].flatten(0, 1)
        self.vectors = self.vectors.to(codes.device)
        length, sequences = codes.shape[1], len(batch.codes) * batch.student_views
        sizes = [length - 1 if name == "encode" else length for name in self.at]
        read = dict(zip(self.at, out.read[self.name].split(sizes, dim=1), strict=True))
        nothing = out.final.new_zeros(())
        found = {"codebook_encode_loss": nothing, "codebook_decode_loss": nothing}
        if "encode" in read:
            each = 1 - F.cosine_similarity(at_least_fp32(read["encode"]), self.vectors[codes[:, :-1]], dim=-1)
            kept = self._kept(batch, rows)  # multiplied: picking would wait for a GPU
            summed = (each if kept is None else each * kept).sum()
            found["codebook_encode_loss"] = summed / (sequences * (length - 1))
        if "decode" in read:
            found["codebook_decode_loss"] = mim_loss(read["decode"], self.vectors[codes]) / (sequences * length)
        return found

    def _kept(self, batch: Batch, rows: slice) -> Tensor | None:
        """(N, T - 1), False where the code that was read is not the image's."""
        if batch.inputs is None or not self.spec.leave_out_replaced:
            return None
        views = batch.student_views
        return (batch.inputs[rows] == batch.codes[rows, :views]).flatten(0, 1)[:, :-1]


def _mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, outputs))
