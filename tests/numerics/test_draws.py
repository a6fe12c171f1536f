"""Every random draw has the distribution that it is said to have, and is a new draw where it should be.

Seeds are fixed, so each of these tests always gives the same answer. A p-value below 0.0001 counts as another distribution.
"""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch
from numpy.typing import NDArray

from star.data.codes import CodeStore
from star.evaluate.probe_features import _views_of_epoch
from star.model.gpt import GPT
from star.model.sample import noise_for
from star.objectives.batch import Batch
from star.objectives.projector import projector
from star.pipeline.config import RunSpec
from star.pipeline.config.model import ModelSpec
from star.tokenizer.train import restart_unused
from star.tokenizer.vq import Quantized, VQModel
from star.train.batches import batch_at
from star.train.terms import terms_of
from star.train.trainer import initial_model
from tests.helpers import tiny, write_store

IMAGES, LENGTH, SIZE, STEPS = 80, 49, 16, 500
NULL = 10


def is_uniform(counts: NDArray[np.int64]) -> bool:
    assert counts.min() >= 0 and counts.mean() >= 5, "too few for a test"
    return bool(scipy.stats.chisquare(counts.ravel()).pvalue > 1e-4)


def is_independent(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> bool:
    table = [[int((a == x)[b == y].sum()) for y in (False, True)] for x in (False, True)]
    return bool(scipy.stats.chi2_contingency(table).pvalue > 1e-4)


def has_share(hits: NDArray[np.bool_], share: float) -> bool:
    return bool(scipy.stats.binomtest(int(hits.sum()), hits.size, share).pvalue > 1e-4)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> CodeStore:
    """Each code is 10 times its image, plus its view."""
    codes = np.arange(IMAGES * 10).reshape(IMAGES, 10, 1).repeat(LENGTH, axis=2)
    return write_store(tmp_path_factory.mktemp("store"), codes, np.arange(IMAGES) % 10)


def drawn(store: CodeStore, steps: int = STEPS, seed: int = 0, **changes: object) -> list[Batch]:
    usual = {"optim__batch_size": SIZE, "selfguided__num_positions": 4, "model__class_dropout_prob": 0.1}
    spec: RunSpec = tiny(**(usual | changes)).model_copy(update={"seed": seed})
    return [batch_at(spec, terms_of(spec), store, step) for step in range(steps)]


@pytest.fixture(scope="module")
def batches(store: CodeStore) -> list[Batch]:
    return drawn(store)


def test_each_epoch_shows_every_image_once_in_an_order_of_its_own(store: CodeStore, batches: list[Batch]) -> None:
    images = np.stack([batch.codes[:, 0, 0].numpy() // 10 for batch in batches])
    epochs = images.reshape(-1, IMAGES)  # five batches of sixteen
    assert all(sorted(epoch) == list(range(IMAGES)) for epoch in epochs.tolist())
    batch_of_first = [int(np.nonzero(epoch == 0)[0][0]) // SIZE for epoch in epochs]
    assert is_uniform(np.bincount(batch_of_first, minlength=5))
    together = [
        a // SIZE == int(np.nonzero(epoch == 1)[0][0]) // SIZE
        for a, epoch in zip([int(np.nonzero(epoch == 0)[0][0]) for epoch in epochs], epochs, strict=True)
    ]
    assert has_share(np.array(together), (SIZE - 1) / (IMAGES - 1)), "two images meet by chance"
    other = np.stack([batch.codes[:, 0, 0].numpy() // 10 for batch in drawn(store, 5, seed=1)])
    assert not np.array_equal(other, images[:5])


@pytest.mark.parametrize("count", [1, 2, 3, 10])
def test_views_are_distinct_and_any_of_them(store: CodeStore, count: int) -> None:
    found = drawn(store, 150, selfguided__num_views=count, selfguided__inter_view=False, selfguided__student_views=1)
    views = np.stack([batch.codes[:, :, 0].numpy() % 10 for batch in found])  # (steps, B, M)
    assert all(len(set(mine)) == count for mine in views.reshape(-1, count).tolist())
    for slot in range(count):
        assert is_uniform(np.bincount(views[:, :, slot].ravel(), minlength=10))
    if count == 2:
        pairs = np.bincount((views[:, :, 0] * 10 + views[:, :, 1]).ravel(), minlength=100)
        assert is_uniform(np.delete(pairs, np.arange(0, 100, 11)))
    for first, second in ((views[:, :-1, 0], views[:, 1:, 0]), (views[:-1, :, 0], views[1:, :, 0])):
        assert is_uniform(np.bincount((first * 10 + second).ravel(), minlength=100)), "images, or steps, go together"
    images = np.stack([batch.codes[:, :, 0].numpy() // 10 for batch in found])
    assert (images == images[:, :, :1]).all(), "views of one image"


@pytest.mark.parametrize("per", ["image", "view"])
@pytest.mark.parametrize("share", [0.1, 0.5])
def test_labels_are_dropped_at_their_share(store: CodeStore, per: str, share: float) -> None:
    found = drawn(store, model__class_dropout_prob=share, model__class_dropout_per=per)
    labels = np.stack([batch.labels.numpy() for batch in found])
    images = np.stack([batch.codes[:, :, 0].numpy() // 10 for batch in found])
    dropped = labels == NULL
    assert (labels[~dropped] == (images % 10)[~dropped]).all()
    assert has_share(dropped[:, :, 0], share) and has_share(dropped[:, :, 1], share)
    if per == "image":
        assert (dropped[:, :, 0] == dropped[:, :, 1]).all()
    else:
        assert is_independent(dropped[:, :, 0], dropped[:, :, 1])
    assert is_independent(dropped[:, :-1, 0], dropped[:, 1:, 0]) and is_independent(
        dropped[:-1, :, 0], dropped[1:, :, 0]
    )


def test_no_label_is_dropped_at_zero_and_every_one_at_one(store: CodeStore) -> None:
    for share in (0.0, 1.0):
        labels = torch.stack([batch.labels for batch in drawn(store, 20, model__class_dropout_prob=share)])
        assert (labels == NULL).double().mean() == share


def test_positions_are_any_and_new_in_each_step(batches: list[Batch]) -> None:
    positions = np.stack([batch.positions[:4].numpy() for batch in batches])
    assert positions.shape == (STEPS, 4) and all(len(set(mine)) == 4 for mine in positions.tolist())
    for slot in range(4):
        assert is_uniform(np.bincount(positions[:, slot] // 7, minlength=7))
    assert is_uniform(np.bincount(positions.ravel(), minlength=LENGTH))
    again = [len(set(a) & set(b)) for a, b in zip(positions[:-1].tolist(), positions[1:].tolist(), strict=True)]
    expected = scipy.stats.hypergeom(LENGTH, 4, 4)
    assert abs(np.mean(again) - expected.mean()) < 4 * expected.std() / STEPS**0.5


@pytest.mark.parametrize("ratio", [0.05, 0.25, 0.9])
def test_any_code_is_hidden_in_each_sequence_and_step_anew(store: CodeStore, ratio: float) -> None:
    found = drawn(store, 120, selfguided__mask_ratio=ratio)
    token_mask = np.stack(
        [batch.token_mask.numpy() for batch in found if batch.token_mask is not None]
    )  # (steps, B, S, T)
    assert token_mask.shape == (120, SIZE, 2, LENGTH) and not token_mask[..., 0].any(), "the condition is never hidden"
    count = round(ratio * (LENGTH - 1))
    assert (token_mask.sum(-1) == count).all()
    assert is_uniform(token_mask.sum((0, 1, 2))[1:])
    share = count / (LENGTH - 1)
    overlap = scipy.stats.hypergeom(LENGTH - 1, count, count)
    for first, second in (
        (token_mask[:, :-1], token_mask[:, 1:]),
        (token_mask[:, :, 0], token_mask[:, :, 1]),
        (token_mask[:-1], token_mask[1:]),
    ):
        both = (first & second).sum(-1)
        assert abs(both.mean() - share * count) < 4 * overlap.std() / both.size**0.5, (
            "images, views, or steps go together"
        )


def test_the_seeds_of_dropout_are_the_sequences_own(batches: list[Batch]) -> None:
    seeds = np.stack([batch.seeds.numpy() for batch in batches if batch.seeds is not None])
    assert seeds.shape == (STEPS, SIZE, 2) and len(np.unique(seeds)) > 0.999 * seeds.size
    assert is_uniform(np.histogram(seeds, bins=20, range=(0, 2**31 - 1))[0])


def test_a_run_of_another_seed_draws_otherwise(store: CodeStore, batches: list[Batch]) -> None:
    first, second = (
        batches[7],
        drawn(store, 8, seed=2**32)[7],
    )  # 2^32 differs from 0 beyond a generator's lowest 32 bits
    again = drawn(store, 8)[7]
    assert (
        first.token_mask is not None
        and second.token_mask is not None
        and first.seeds is not None
        and second.seeds is not None
    )
    for name in ("codes", "positions", "token_mask", "seeds"):
        assert torch.equal(getattr(first, name), getattr(again, name))
        assert not torch.equal(getattr(first, name), getattr(second, name)), name


def is_normal(values: torch.Tensor, deviation: float) -> bool:
    return bool(scipy.stats.kstest(values.detach().flatten().numpy() / deviation, "norm").pvalue > 1e-4)


def test_weights_begin_as_the_spec_says() -> None:
    spec = tiny(model__dim=32, model__init_std=0.05)
    model = initial_model(spec)
    for name, parameter in model.named_parameters():
        if name == "output.weight":
            assert not parameter.any()
        elif parameter.ndim == 1:
            assert (parameter == 1).all(), name
        else:
            assert is_normal(parameter, 0.05), name
    again, other = initial_model(spec), initial_model(spec.model_copy(update={"seed": 1}))
    key = "layers.0.attention.wqkv.weight"
    assert torch.equal(model.state_dict()[key], again.state_dict()[key])
    assert not torch.equal(model.state_dict()[key], other.state_dict()[key])
    first, second = (model.state_dict()[f"layers.{layer}.attention.wqkv.weight"] for layer in (0, 1))
    assert abs(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1]) < 0.1


def test_the_projector_begins_as_pytorchs_layers_do() -> None:
    torch.manual_seed(0)
    made = projector(16, 16, hidden=64, layers=3)
    assert [type(layer).__name__ for layer in made] == ["Linear", "SiLU", "Linear", "SiLU", "Linear"]
    assert [tuple(layer.weight.shape) for layer in made if isinstance(layer, torch.nn.Linear)] == [
        (64, 16),
        (64, 64),
        (16, 64),
    ]
    for layer in made:
        if isinstance(layer, torch.nn.Linear):
            bound = layer.in_features**-0.5
            assert is_uniform(np.histogram(layer.weight.detach(), bins=8, range=(-bound, bound))[0])


def test_the_numbers_of_sampling() -> None:
    noise = noise_for(5, 100, 300, 49)
    assert noise.dtype == torch.float64 and noise.shape == (300, 49)
    assert scipy.stats.kstest(noise.flatten().numpy(), "uniform").pvalue > 1e-4
    assert scipy.stats.kstest(noise[:, 0].numpy(), "uniform").pvalue > 1e-4
    assert len(noise.unique()) == noise.numel(), "an image, or a position, has another's number"
    assert torch.equal(noise_for(5, 103, 2, 49), noise[3:5]) and not torch.equal(noise_for(6, 100, 1, 49), noise[:1])
    assert not torch.equal(noise_for(5 + 2**32, 100, 1, 49), noise[:1])


def test_the_views_that_a_probe_trains_on() -> None:
    views = np.stack([_views_of_epoch(0, epoch, 200, 10) for epoch in range(10)])
    assert is_uniform(np.bincount(views.ravel(), minlength=10))
    assert is_uniform(np.bincount((views[:-1] * 10 + views[1:]).ravel(), minlength=100)), "epochs go together"
    assert not np.array_equal(_views_of_epoch(1, 0, 200, 10), views[0])


def test_unused_codes_move_to_latents_in_proportion_to_their_error() -> None:
    spec = tiny(tokenizer__codebook_size=4000, tokenizer__codebook_dim=4).tokenizer
    model = VQModel(spec, 1)
    generator = torch.Generator().manual_seed(0)
    latent = torch.randn(1, 2, 2, 4, generator=generator)
    errors = torch.tensor([0.0, 1.0, 2.0, 5.0])
    vectors = latent - (errors / 4).sqrt().view(1, 2, 2, 1)
    before = model.quantize.embedding.weight.detach().clone()
    used = torch.zeros(4000, dtype=torch.bool)
    used[:100] = True
    torch.manual_seed(1)
    restart_unused(model, used, Quantized(latent, vectors, torch.zeros(1, 2, 2, dtype=torch.long)))
    after = model.quantize.embedding.weight.detach()
    assert torch.equal(after[:100], before[:100]), "used codes stay"
    places = (after[100:, None] == latent.view(1, 4, 4)).all(-1)
    assert places.any(1).all(), "every other one is a latent of the batch"
    counts = places.sum(0).numpy()
    assert counts[0] == 0 and scipy.stats.chisquare(counts[1:], 3900 * np.array([1, 2, 5]) / 8).pvalue > 1e-4


def test_a_models_dropout_follows_its_fields() -> None:
    """Each of the three at its own share, with another mask in each place and layer."""
    shares = {"token_dropout": 0.1, "residual_dropout": 0.3, "ffn_dropout": 0.6}
    model = GPT(ModelSpec(n_layer=2, n_head=2, dim=32, ffn_multiple_of=16, **shares), 16, 4, 5)
    seen: dict[str, torch.Tensor] = {}
    for name, module in model.named_modules():
        if name.endswith("dropout"):
            module.register_forward_hook(
                lambda module, given, out, name=name: seen.update({name: (out == 0) & (given[0] != 0)})
            )
    seeds = torch.arange(1, 41, dtype=torch.int32) * 7919
    model.features(torch.randint(16, (40, 25)), torch.zeros(40, dtype=torch.long), seeds=seeds)
    fields = {"tok_dropout": 0.1, "attention.dropout": 0.3, "feed_forward.dropout": 0.6}
    assert len(seen) == 5
    for name, dropped in seen.items():
        share = next(value for field, value in fields.items() if name.endswith(field))
        assert has_share(dropped.numpy(), share), name
    for kind in ("attention", "feed_forward"):
        assert is_independent(*(seen[f"layers.{layer}.{kind}.dropout"].numpy() for layer in (0, 1))), kind
    assert is_independent(seen["layers.0.attention.dropout"].numpy(), seen["layers.0.feed_forward.dropout"].numpy())
