"""What a trained transformer attends to: attention over the grid, and its shares on near cells and on the condition.

Input i (0-based) is the condition for i = 0 and code x_i after it, which lies in grid cell i in raster order; its output
predicts code x_{i+1}. A query's own cell is that of its input, the "current token" of the paper's figures.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from star.model.gpt import GPT, Block
from star.pipeline.attention import SHARES


@dataclass
class AttentionReport:
    """Averages of attention over images, and the attention maps of some images."""

    numbers: dict[str, Tensor]
    """Each of SHARES, (L, H, T) float64, by layer, head and position.

    `distance` is the mean distance in grid cells from the query's own cell to the cells it attends to, without the
    condition; it is 0 at the first position, which sees only the condition. The shares are fractions of all attention:
    on the condition, on the own cell, on the eight cells around it.
    """
    maps: Tensor
    """(S, L, H, P, T) float32: attention of P positions of S images; the first of T is the condition, T - 1 cells follow."""

    def average(self, name: str, by: str | None = None, layer: int | None = None) -> Tensor:
        """One of SHARES, averaged over heads and positions 2 to T, and over layers unless one is given.

        Args:
            by: the dimension to keep: `layer` gives (L,), `position` gives (T,), which includes the first position.
            layer: 0-based layer to use alone.
        """
        values = self.numbers[name].mean(1)  # (L, T)
        if layer is not None:
            values = values[layer][None]
        if by == "position":
            return values.mean(0)
        by_layer = values[:, 1:].mean(1)
        return by_layer if by == "layer" else by_layer.mean()


def uniform(grid: int) -> dict[str, Tensor]:
    """SHARES (T,) by position if every query attended equally to all that it sees: the baseline for "local"."""
    length = grid**2
    weights = torch.ones(length, length, dtype=torch.float64).tril()
    return _shares(weights / weights.sum(1, keepdim=True), _Geometry(grid, torch.device("cpu")))


@torch.no_grad()
def measure_attention(
    model: GPT, batches: Iterable[tuple[Tensor, Tensor]], positions: list[int], shown: int
) -> AttentionReport:
    """Measure the attention on batches of codes (b, T) and labels (b,), unmasked, in float32.

    Args:
        positions: 1-based query positions of the maps.
        shown: how many images, from the first, have their maps kept.
    """
    geometry = _Geometry(model.grid, model.output.weight.device)
    queries = torch.tensor(positions, device=geometry.distance.device) - 1
    sums: dict[str, Tensor] = {}
    maps: list[Tensor] = []
    count = 0
    for codes, labels in batches:
        wanted = max(0, shown - count)
        layers, kept = [], []
        for weights in attention_weights(model, codes, labels):
            layers.append(_shares(weights, geometry))
            kept.append(weights[:wanted, :, queries].float().cpu())
        for name in SHARES:
            part = torch.stack([layer[name].sum(0) for layer in layers]).double().cpu()
            sums[name] = sums[name] + part if name in sums else part
        maps.append(torch.stack(kept, dim=1))
        count += len(codes)
    return AttentionReport({name: total / count for name, total in sums.items()}, torch.cat(maps))


def attention_weights(model: GPT, codes: Tensor, labels: Tensor) -> Iterable[Tensor]:
    """Yield each layer's attention weights (B, H, T, T); row i is how input i attends to inputs 0 to i."""
    x = model.embed(codes, labels)
    length = codes.shape[1]
    hidden = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
    for block in cast("Iterable[Block]", model.layers):
        query, key, _ = block.enter(x, model.rope)
        logits = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        yield logits.float().masked_fill(hidden, -torch.inf).softmax(-1)
        x = block(x, model.rope, None)


class _Geometry:
    """Distance and neighbourhood (T, T) of a query's own cell (row) and a key's (column); 0 for the condition."""

    def __init__(self, grid: int, device: torch.device) -> None:
        cells = torch.arange(grid**2 - 1, device=device)
        place = torch.stack([cells // grid, cells % grid], dim=1).double()
        offset = (place[:, None] - place[None]).abs()
        self.distance = _behind_condition(offset.square().sum(-1).sqrt())
        self.own = _behind_condition((offset.amax(-1) == 0).double())
        self.around = _behind_condition((offset.amax(-1) == 1).double())


def _behind_condition(cells: Tensor) -> Tensor:
    return torch.nn.functional.pad(cells, (1, 0, 1, 0))


def _shares(weights: Tensor, geometry: _Geometry) -> dict[str, Tensor]:
    """Each of SHARES, (..., T), of attention (..., T, T)."""
    condition = weights[..., 0].double()

    def over(values: Tensor) -> Tensor:
        return torch.einsum("...ij,ij->...i", weights.double(), values)

    cells = weights[..., 1:].double().sum(-1)  # not 1 - condition, which would lose precision
    # a query that sees cells but gives them nothing has distance 0
    distance = torch.where(cells > 0, over(geometry.distance) / cells, 0.0)
    return {
        "distance": distance,
        "condition_share": condition,
        "self_share": over(geometry.own),
        "neighbour_share": over(geometry.around),
    }
