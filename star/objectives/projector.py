"""The projector, which maps hidden states to the features that a loss compares."""

from __future__ import annotations

from torch import nn

from star.model.kernels import Linear


def projector(inputs: int, outputs: int, hidden: int = 2048, layers: int = 3) -> nn.Sequential:
    """Make an MLP of linear layers with biases and SiLU between them (section 3.3.2 of ST-AR, arXiv:2509.15185).

    Args:
        inputs, outputs, hidden: numbers of channels.
        layers: number of linear layers.
    """
    widths = [inputs] + [hidden] * (layers - 1) + [outputs]
    found: list[nn.Module] = []
    for before, after in zip(widths[:-1], widths[1:], strict=True):
        found += [Linear(before, after), nn.SiLU()]
    return nn.Sequential(*found[:-1])
