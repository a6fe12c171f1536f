"""The light list of stages and their code agree; the estimates agree with what the modules really do."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from star.model.gpt import GPT
from star.scheduler import estimate
from star.spec.graph import STAGES, needed
from star.spec.images import TokenizerSpec
from star.spec.sections import ModelSpec
from star.tokenizer.vq import VQModel
from tests.helpers import tiny


def test_the_graph_and_the_code_name_the_same_stages() -> None:
    import star.stages

    assert set(star.stages.STAGES) == set(STAGES)


def test_inputs_come_first() -> None:
    order = needed(("score", "probe"))
    assert set(order) == set(STAGES)
    assert all(order.index(before) < order.index(stage) for stage in order for before in STAGES[stage].inputs)


def test_parameters_are_counted_right() -> None:
    spec = tiny()
    model = GPT(spec.model, spec.tokenizer.codebook_size, spec.data.num_classes, spec.grid)
    assert estimate.parameters(spec) == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("dim, n_layer", [(16, 2), (64, 4)])
def test_transformer_operations_are_counted_right(dim: int, n_layer: int) -> None:
    spec = tiny(model__dim=dim, model__n_layer=n_layer)
    model = GPT(spec.model, spec.tokenizer.codebook_size, spec.data.num_classes, spec.grid).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, spec.sequence_length, dtype=torch.long), torch.zeros(1, dtype=torch.long))
    # the counter counts attention over all T x T pairs, or not at all; causal attention needs half of them
    attention = 4 * dim * spec.sequence_length**2 * n_layer
    counted = counter.get_total_flops()
    assert any(
        estimate.forward_flops(spec) == pytest.approx(c, rel=0.01)
        for c in (counted - attention / 2, counted + attention / 2)
    )


@pytest.mark.parametrize("tokenizer, size", [(TokenizerSpec(), 64), (tiny().tokenizer, 28)])
def test_tokenizer_operations_are_counted_right(tokenizer: TokenizerSpec, size: int) -> None:
    model = VQModel(tokenizer, 3).eval()
    encode, decode = estimate.vq_flops(tokenizer, size, 3)
    with torch.no_grad():
        with FlopCounterMode(display=False) as counter:
            codes = model.encode(torch.zeros(1, 3, size, size))
        assert counter.get_total_flops() == pytest.approx(encode, rel=0.03)
        with FlopCounterMode(display=False) as counter:
            model.decode(codes)
        assert counter.get_total_flops() == pytest.approx(decode, rel=0.03)


def test_llamagen_b_costs_what_is_known() -> None:
    """Per 256-code sequence: 51.1 GFLOP forward, 153.4 to train; the teacher and two views make 2.58 times that."""
    spec = tiny(
        data__image_size=256, tokenizer__channel_mult=[1, 1, 2, 2, 4], tokenizer__codebook_size=16384, optim__batch_size=2, optim__steps=1,
    )  # fmt: skip
    spec = spec.model_copy(update={"model": ModelSpec()})
    assert 3 * estimate.forward_flops(spec) == pytest.approx(153.4e9, rel=0.002)
    assert estimate.train_flops(spec) / (2 * 3 * estimate.forward_flops(spec)) == pytest.approx(2.583, abs=0.01)
    encode, decode = estimate.vq_flops(TokenizerSpec(), 256, 3)
    assert (encode, decode) == (pytest.approx(138.4e9, rel=0.03), pytest.approx(252.7e9, rel=0.03))
