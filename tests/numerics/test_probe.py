"""The linear probe: MAE's steps, the rate that held-out images choose, features kept or computed again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from star.errors import DataError
from star.evaluate import linear_probe
from star.evaluate.linear_probe import ProbeResult, probe_positions, train_probe
from star.evaluate.probe_features import DTYPES, BackboneFeatures
from star.model.gpt import GPT
from star.pipeline.config.model import ModelSpec
from star.pipeline.config.probe import ProbeSpec
from tests.helpers import write_store
from tests.numerics.plain_trainer import hidden_states

VIEWS = 10
CENTRES = {"stored_views": False, "dtype": "fp32", "seed": 0}


class Given:
    """Features that are there."""

    def __init__(self, values: Tensor, labels: Tensor) -> None:
        self.values, self.labels = values, labels

    def features(self, rows: Tensor, epoch: int | None = None) -> Tensor:
        return self.values[rows]

    def passes(self, rows: Tensor) -> Iterator[Tensor]:
        yield self.values[rows]


def easy(noise: float = 1.0) -> tuple[Given, Given]:
    """Position 1 holds the class of seven, position 2 holds noise."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(7, (900,), generator=generator)
    centres = torch.randn(7, 8, generator=generator) * 2
    features = torch.randn(900, 2, 8, generator=generator) * noise
    features[:, 0] += centres[labels]
    return Given(features[:600], labels[:600]), Given(features[600:], labels[600:])


def probed(train: Given, test: Given, spec: ProbeSpec) -> ProbeResult:
    return train_probe(train, test, 7, spec, [1, 2], 0, lambda done, total: None)


def test_positions_end_at_the_last() -> None:
    assert probe_positions(8, 256) == [32, 64, 96, 128, 160, 192, 224, 256]
    assert probe_positions(8, 49) == [6, 12, 18, 24, 31, 37, 43, 49]


def test_it_finds_what_is_linearly_there() -> None:
    spec = ProbeSpec(positions=2, epochs=20, warmup_epochs=2, batch_size=64, base_lrs=[0.001, 30.0])
    found = probed(*easy(), spec)
    assert found.accuracy[0] > 0.9 and found.accuracy_top5[0] > 0.99
    assert 0.05 < found.accuracy[1] < 0.3 and 0.6 < found.accuracy_top5[1] < 0.83
    assert found.best_lr[0] == 30.0


def test_the_heads_take_maes_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """One position and one rate by MAE's recipe in plain PyTorch, against all heads at once and in parts of a batch."""
    train, _ = easy()
    spec = ProbeSpec(positions=2, epochs=3, warmup_epochs=1, batch_size=200, base_lrs=[0.5, 20.0])
    monkeypatch.setattr(linear_probe, "LOGITS", 64 * 2 * 2 * 7)
    generator = torch.Generator().manual_seed(3)
    weight, bias = linear_probe._train_heads(
        lambda rows, epoch: (train.values[rows], train.labels[rows]),
        600,
        train.values[0],
        7,
        spec,
        generator,
        lambda *_: None,
    )
    generator = torch.Generator().manual_seed(3)
    start = torch.nn.init.trunc_normal_(torch.empty(2, 2, 8, 7), std=0.01, generator=generator)
    orders = [torch.randperm(600, generator=generator) for _ in range(3)]
    for rate, base in enumerate(spec.base_lrs):
        for place in range(2):
            head = torch.nn.Linear(8, 7)
            head.weight.data, head.bias.data = start[rate, place].T.clone(), torch.zeros(7)
            velocity = {parameter: torch.zeros_like(parameter) for parameter in head.parameters()}
            for step in range(9):
                epoch, rows = step / 3, orders[step // 3][step % 3 * 200 : step % 3 * 200 + 200]
                factor = epoch if epoch < 1 else 0.5 * (1 + np.cos(np.pi * (epoch - 1) / 2))
                head.zero_grad()
                F.cross_entropy(head(train.values[rows, place]), train.labels[rows]).backward()
                for parameter in head.parameters():
                    update = parameter.grad
                    assert update is not None
                    if parameter.ndim > 1:
                        update = update * 0.001 * parameter.norm() / update.norm()
                    velocity[parameter] = velocity[parameter] * 0.9 + update
                    parameter.data -= base * 200 / 256 * factor * velocity[parameter]
            torch.testing.assert_close(weight[rate, place].T, head.weight.data, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(bias[rate, place], head.bias.data, atol=1e-5, rtol=1e-4)


def test_the_test_images_do_not_choose_the_rate() -> None:
    """Shuffled test labels change the accuracy, not the chosen rates."""
    train, test = easy(noise=1.5)
    spec = ProbeSpec(positions=2, epochs=20, warmup_epochs=2, batch_size=64, base_lrs=[0.01, 1.0, 30.0, 300.0])
    shuffled = Given(test.values, test.labels[torch.randperm(300, generator=torch.Generator().manual_seed(1))])
    honest, other = probed(train, test, spec), probed(train, shuffled, spec)
    assert honest.best_lr == other.best_lr and honest.accuracy[0] > other.accuracy[0] + 0.2


def test_features_that_are_no_numbers_are_refused() -> None:
    spec = ProbeSpec(positions=2, epochs=2, warmup_epochs=1, batch_size=64, base_lrs=[1.0])
    for broken in (0, 1):
        sides = easy()
        sides[broken].values[5, 1, 2] = torch.inf
        with pytest.raises(DataError, match="not (all )?finite numbers"):
            probed(*sides, spec)


def test_a_rate_that_diverges_is_not_chosen() -> None:
    spec = ProbeSpec(positions=2, epochs=20, warmup_epochs=2, batch_size=64, base_lrs=[1e300, 30.0])
    found = probed(*easy(), spec)
    assert found.best_lr == [30.0, 30.0] and found.accuracy[0] > 0.5
    with pytest.raises(DataError, match="probe.base_lrs: with none of these rates"):
        probed(*easy(), spec.model_copy(update={"base_lrs": [1e300, 1e299]}))


class InParts(Given):
    """Its passes come in two parts, as views or large sets do."""

    def passes(self, rows: Tensor) -> Iterator[Tensor]:
        yield from self.values[rows].split(4)


def test_features_are_normalised_by_all_that_is_trained_on() -> None:
    values = torch.randn(7, 2, 3, generator=torch.Generator().manual_seed(0)) * 0.1 + 5
    values[:, 1, 2] = 2.5  # says nothing
    rows = torch.tensor([0, 2, 3, 4, 6])
    mean, scale = linear_probe._normalisation(InParts(values, torch.zeros(7)), rows)
    known = values[rows].double()
    torch.testing.assert_close(mean, known.mean(0).float(), rtol=1e-6, atol=0)
    spread = (known.var(0, unbiased=False) + linear_probe.EPSILON).rsqrt().float()
    torch.testing.assert_close(scale, spread, rtol=1e-5, atol=0)


@pytest.fixture
def backbone(tmp_path: Path) -> tuple[GPT, object]:
    torch.manual_seed(0)
    model = GPT(ModelSpec(n_layer=2, n_head=2, dim=16, ffn_multiple_of=16, init_std=0.3), 32, 7, 4).eval()
    rng = np.random.default_rng(0)
    return model, write_store(tmp_path, rng.integers(0, 32, (60, VIEWS, 16)).astype(np.uint16), rng.integers(0, 7, 60))


@pytest.mark.parametrize("stored", [False, True], ids=["centre crops", "stored views"])
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_features_that_do_not_fit_are_the_same(backbone: tuple[GPT, object], stored: bool, dtype: str) -> None:
    model, store = backbone
    size = 60 * (VIEWS if stored else 1) * 2 * 16 * DTYPES[dtype].itemsize
    kept, computed = (
        BackboneFeatures(model, store, 1, [4, 16], 13, stored_views=stored, dtype=dtype, seed=0, limit=limit)  # type: ignore[arg-type]
        for limit in (size, size - 1)
    )
    assert kept.kept is not None and computed.kept is None and kept.kept.dtype == DTYPES[dtype]
    rows = torch.tensor([3, 59, 0, 17, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30])
    for epoch in (None, 0, 1):
        torch.testing.assert_close(kept.features(rows, epoch), computed.features(rows, epoch), atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(
        torch.cat([*kept.passes(rows)]), torch.cat([*computed.passes(rows)]), atol=1e-5, rtol=1e-3
    )
    assert len(torch.cat([*kept.passes(rows)])) == len(rows) * (VIEWS if stored else 1)
    epochs_differ = not torch.equal(kept.features(rows, 0), kept.features(rows, 1))
    assert epochs_differ == stored
    spec = ProbeSpec(positions=2, epochs=4, warmup_epochs=1, batch_size=16, base_lrs=[1.0])
    found = [train_probe(source, source, 7, spec, [4, 16], 0, lambda *_: None).accuracy for source in (kept, computed)]
    assert found[0] == pytest.approx(found[1], abs=0.05)


def test_features_are_the_backbones_under_the_null_label(backbone: tuple[GPT, object]) -> None:
    model, store = backbone
    source = BackboneFeatures(model, store, 2, [4, 16], 7, **CENTRES)  # type: ignore[arg-type]
    codes = torch.from_numpy(store.center(5, 6))  # type: ignore[attr-defined]
    expected = model.features(codes, torch.tensor([7])).pre_norm[0, [3, 15]]
    torch.testing.assert_close(source.features(torch.tensor([5]))[0], expected.detach())


def plainly(train: Given, test: Given, spec: ProbeSpec, seed: int) -> tuple[list[float], list[float], list[float]]:
    """The whole protocol for one rate and one position at a time, in float64: top-1, top-5 and the rate of each position."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(train.labels), generator=generator)
    held = max(1, round(spec.holdout * len(order)))
    chosen, kept = order[:held], order[held:]
    classes, (_, places, dim) = 7, train.values.shape
    start = torch.empty(len(spec.base_lrs), places, dim, classes)
    torch.nn.init.trunc_normal_(start, std=0.01, generator=generator)
    batch = min(spec.batch_size, len(kept))
    orders = [torch.randperm(len(kept), generator=generator) for _ in range(spec.epochs)]
    found: tuple[list[float], list[float], list[float]] = ([], [], [])
    for place in range(places):
        seen = train.values[kept, place].double()
        mean, deviation = seen.mean(0), (seen.var(0, unbiased=False) + 1e-6).sqrt()
        x, y = (seen - mean) / deviation, train.labels[kept]
        tried = []
        for rate, base in enumerate(spec.base_lrs):
            weight, bias = start[rate, place].double(), torch.zeros(classes, dtype=torch.float64)
            speed = [torch.zeros_like(weight), torch.zeros_like(bias)]
            for epoch in range(spec.epochs):
                for i in range(len(kept) // batch):
                    rows = orders[epoch][i * batch : (i + 1) * batch]
                    error = (x[rows] @ weight + bias).softmax(1) - F.one_hot(y[rows], classes)
                    at = epoch + i / (len(kept) // batch)
                    rising = at / max(spec.warmup_epochs, 1e-9)
                    falling = (1 + np.cos(np.pi * (at - spec.warmup_epochs) / (spec.epochs - spec.warmup_epochs))) / 2
                    lr = base * batch / 256 * (rising if at < spec.warmup_epochs else falling)
                    slopes = [x[rows].T @ error / batch, error.mean(0)]
                    slopes[0] = slopes[0] * 0.001 * weight.norm() / slopes[0].norm()
                    speed = [0.9 * old + new for old, new in zip(speed, slopes, strict=True)]
                    weight, bias = weight - lr * speed[0], bias - lr * speed[1]
            tried.append((weight, bias))

        def accuracy(head: tuple[Tensor, Tensor], values: Tensor, truth: Tensor, of: int) -> float:
            scores = (values.double() - mean) / deviation @ head[0] + head[1]  # noqa: B023
            return float((scores.argsort(1, descending=True)[:, :of] == truth[:, None]).any(1).double().mean())

        marks = [accuracy(head, train.values[chosen, place], train.labels[chosen], 1) for head in tried]
        best = int(np.argmax(marks))
        for kind, of in ((0, 1), (1, 5)):
            found[kind].append(accuracy(tried[best], test.values[:, place], test.labels, of))
        found[2].append(spec.base_lrs[best])
    return found


@pytest.mark.parametrize(
    "changes",
    [{}, {"warmup_epochs": 0, "batch_size": 5000}, {"holdout": 0.4, "base_lrs": [30.0, 0.3, 3.0], "batch_size": 90}],
    ids=str,
)
def test_the_whole_protocol_equals_the_plain_one(changes: dict[str, object]) -> None:
    train, test = easy(noise=1.5)
    for side in (train, test):  # channels of unlike scale and place, which the normalisation takes away
        side.values = side.values * torch.logspace(-1, 1, 8) + torch.arange(8.0)
    usual = {"positions": 2, "epochs": 6, "warmup_epochs": 2, "batch_size": 128, "base_lrs": [0.1, 1.0, 20.0]}
    spec = ProbeSpec.model_validate(usual | changes)
    found = train_probe(train, test, 7, spec, [4, 9], 11, lambda done, total: None)
    top1, top5, rates = plainly(train, test, spec, 11)
    assert found.positions == [4, 9] and found.best_lr == rates
    assert found.accuracy == pytest.approx(top1, abs=1.01 / 300) and found.accuracy_top5 == pytest.approx(
        top5, abs=1.01 / 300
    )


def test_features_are_the_models_at_their_positions(backbone: tuple[GPT, object]) -> None:
    """Under the null label, unmasked, after the layer; position p is the input whose output predicts code p."""
    model, store = backbone
    source = BackboneFeatures(model, store, 1, [4, 16], 13, **CENTRES)  # type: ignore[arg-type]
    state = {name: value.double() for name, value in model.state_dict().items()}
    rows = torch.tensor([3, 59, 0])
    for row, found in zip(rows.tolist(), source.features(rows), strict=True):
        codes = torch.from_numpy(store.center(row, row + 1)[0])  # type: ignore[attr-defined]
        states = hidden_states(state, model.spec.model_dump(), codes, torch.tensor(7), None, True, None)
        torch.testing.assert_close(found.double(), states[0][[3, 15]], atol=1e-5, rtol=1e-4)
