"""Sampling equals a sampler that was written a second time: the whole sequence once more for each code, no cache, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from star.model.gpt import GPT
from star.model.sample import noise_for, sample
from star.pipeline.config.generate import GenerateSpec
from star.pipeline.config.model import ModelSpec
from tests.numerics.plain_trainer import hidden_states

SPEC = ModelSpec(n_layer=2, n_head=2, dim=16, ffn_multiple_of=16)
LENGTH, VOCABULARY, NULL = 9, 12, 5


@pytest.fixture(scope="module")
def model() -> GPT:
    torch.manual_seed(0)
    model = GPT(SPEC, vocab_size=VOCABULARY, num_classes=NULL, grid=3).eval()
    for parameter in model.parameters():
        parameter.data += 0.4 * torch.randn_like(parameter)
    return model.double()


def logits(model: GPT, codes: list[int], label: int) -> np.ndarray:
    """Of the next code, as (V,)."""
    padded = torch.tensor(codes + [0] * (LENGTH - len(codes)))
    state = {name: value.double() for name, value in model.state_dict().items()}
    with torch.no_grad():
        final = hidden_states(state, SPEC.model_dump(), padded, torch.tensor(label), None, True, None)[-1]
    found: np.ndarray = (final[len(codes)] @ state["output.weight"].T).numpy()
    return found


def chosen(values: np.ndarray, spec: GenerateSpec, uniform: float) -> int:
    """The code at which the cumulative probability of what the filters leave passes `uniform`."""
    values = values / spec.temperature
    kept = np.argsort(-values, kind="stable")[: spec.top_k or None]
    probabilities = np.exp(values[kept] - values.max())
    probabilities /= probabilities.sum()
    before = np.cumsum(probabilities) - probabilities
    if spec.top_p < 1:
        kept, probabilities = kept[before <= spec.top_p], probabilities[before <= spec.top_p]
    left = np.zeros(VOCABULARY)
    left[kept] = probabilities
    return int(np.searchsorted(np.cumsum(left), uniform * left.sum(), side="right"))


def plainly(model: GPT, label: int, uniform: np.ndarray, spec: GenerateSpec) -> list[int]:
    codes: list[int] = []
    for position in range(LENGTH):
        values = logits(model, codes, label)
        if spec.cfg_scale > 1 and (spec.cfg_until is None or position < spec.cfg_until):
            free = logits(model, codes, NULL)
            values = free + spec.cfg_scale * (values - free)
        codes.append(chosen(values, spec, uniform[position]))
    return codes


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"cfg_scale": 3.0},
        {"cfg_scale": 3.0, "cfg_until": 4},
        {"cfg_scale": 3.0, "cfg_until": 1},
        {"temperature": 0.4},
        {"temperature": 3.0, "cfg_scale": 2.0},
        {"top_k": 3},
        {"top_k": 1},
        {"top_p": 0.6},
        {"top_k": 5, "top_p": 0.8, "temperature": 1.5, "cfg_scale": 1.5},
    ],
    ids=str,
)
def test_the_codes_are_those_of_the_plain_sampler(model: GPT, changes: dict[str, Any]) -> None:
    spec = GenerateSpec(**changes)
    labels, noise = torch.tensor([0, 1, 4, 2, 3, 0]), noise_for(2, 0, 6, LENGTH)
    found = sample(model, labels, noise, spec)
    assert found.tolist() == [
        plainly(model, int(label), row, spec) for label, row in zip(labels, noise.numpy(), strict=True)
    ]


def test_what_the_changes_are_for(model: GPT) -> None:
    """Each of them changes some code, or the test above would say nothing of it."""
    labels, noise = torch.arange(40) % 5, noise_for(2, 0, 40, LENGTH)
    specs = [
        {},
        {"cfg_scale": 3.0},
        {"cfg_scale": 3.0, "cfg_until": 4},
        {"cfg_scale": 3.0, "cfg_until": 5},
        {"temperature": 0.4},
        {"top_k": 3},
        {"top_p": 0.6},
    ]
    found = [sample(model, labels, noise, GenerateSpec(**changes)) for changes in specs]
    for i, one in enumerate(found):
        assert all(not torch.equal(one, other) for other in found[:i])
