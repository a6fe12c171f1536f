"""The projector: what turns hidden states into what they are compared with."""

from __future__ import annotations

from torch import nn


def projector(inputs: int, outputs: int, hidden: int = 2048, layers: int = 3) -> nn.Sequential:
    """Linear layers with biases and SiLU between (section 3.3.2).

    Args:
        inputs, outputs, hidden: channels.
        layers: how many linear ones.
    """
    widths = [inputs] + [hidden] * (layers - 1) + [outputs]
    found: list[nn.Module] = []
    for before, after in zip(widths[:-1], widths[1:], strict=True):
        found += [nn.Linear(before, after), nn.SiLU()]
    return nn.Sequential(*found[:-1])
