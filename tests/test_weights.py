"""Weights from files: LlamaGen's layouts load, everything else is refused in one sentence; exports load again."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from star.errors import DataError
from star.model.gpt import GPT
from star.pipeline.config.model import ModelSpec
from star.pipeline.config.tokenizer import TokenizerSpec
from star.sniff import misnamed
from star.tokenizer.load import BUFFER, load_vq
from star.tokenizer.vq import VQModel
from star.train.trainer import build_model, initial_model
from star.weights import LAYOUTS, load_state, load_weights
from tests.helpers import star_exp, tiny

FAMILY = json.loads((Path(__file__).parent / "numerics" / "golden" / "llamagen_state_dicts.json").read_text())
SIZES = {"B": (12, 12, 768), "L": (24, 16, 1024), "XL": (36, 20, 1280), "XXL": (48, 24, 1536), "3B": (24, 32, 3200)}
LEVELS = {"VQ-16": [1, 1, 2, 2, 4], "VQ-8": [1, 2, 2, 4]}


@pytest.mark.parametrize("size", SIZES)
def test_the_transformers_are_llamagens(size: str) -> None:
    n_layer, n_head, dim = SIZES[size]
    spec, known = ModelSpec(n_layer=n_layer, n_head=n_head, dim=dim), FAMILY[f"GPT-{size}"]
    with torch.device("meta"):
        model = GPT(spec, 16384, 1000, grid=16)
    assert (known["n_layer"], known["n_head"], known["dim"], known["ffn_hidden"]) == (
        n_layer,
        n_head,
        dim,
        spec.ffn_hidden,
    )
    assert sum(parameter.numel() for parameter in model.parameters()) == known["parameters"]
    shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
    for key, shape in known.get("state_dict", {}).items():  # the first block stands for all
        assert shapes[key] == shape
    assert {
        key.replace(f"layers.{i}.", "layers.0.") for i in range(n_layer) for key in shapes if f"layers.{i}." in key
    } | {key for key in shapes if "layers" not in key} == set(FAMILY["GPT-B"]["state_dict"])


@pytest.mark.parametrize("name", LEVELS)
def test_the_tokenizers_are_llamagens(name: str) -> None:
    spec = TokenizerSpec(channel_mult=LEVELS[name])
    with torch.device("meta"):
        model = VQModel(spec, 3)
    known = {key: shape for key, shape in FAMILY[name]["state_dict"].items() if key != BUFFER}
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == known
    assert sum(parameter.numel() for parameter in model.parameters()) == FAMILY[name]["parameters"]
    assert spec.downsample == int(name.removeprefix("VQ-"))


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("layout", [None, *LAYOUTS])
def test_layouts(tmp_path: Path, layout: str | None, prefix: str) -> None:
    model = build_model(tiny())
    content = {prefix + key: value for key, value in model.state_dict().items()}
    path = tmp_path / "gpt.pt"
    training = {"steps": 3, "args": argparse.Namespace(lr=1e-4, results_dir="results"), "optimizer": {"state": {}}}
    torch.save(content if layout is None else {layout: content, **training}, path)
    loaded = initial_model(tiny(model__weights=str(path)))
    assert all(torch.equal(loaded.state_dict()[key], value) for key, value in model.state_dict().items())


def test_a_tokenizers_ema_comes_first_and_its_statistics_are_not_needed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spec = tiny().tokenizer
    state = VQModel(spec, 1).state_dict()
    other = {key: value + 1 for key, value in state.items()}
    torch.save({"model": other, "ema": state | {BUFFER: torch.zeros(7)}}, tmp_path / "vq.pt")
    loaded = load_vq(spec, 1, tmp_path / "vq.pt")
    assert not loaded.training
    assert all(torch.equal(loaded.state_dict()[key], value) for key, value in state.items())
    assert torch.equal(load_state(tmp_path / "vq.pt")["quant_conv.bias"], other["quant_conv.bias"])
    said = [record.getMessage().partition(": ")[2] for record in caplog.records]
    assert said == ["the weights are those under `ema`, not `model`", "the weights are those under `model`, not `ema`"]


def test_what_does_not_fit(tmp_path: Path) -> None:
    spec, path = tiny().tokenizer, tmp_path / "vq.pt"
    with pytest.raises(DataError, match="cannot be read as weights"):
        load_vq(spec, 1, path)
    path.write_bytes(b"not weights")
    with pytest.raises(DataError, match="cannot be read as weights"):
        load_vq(spec, 1, path)
    with pytest.raises(DataError, match="cannot be read as weights"):
        load_weights(path.rename(tmp_path / "vq.safetensors"))
    for odd in (torch.zeros(3), {"model": 3}, [1, 2], {"model": {}}, {"a": torch.zeros(1), "b": 3}):
        torch.save(odd, path)
        with pytest.raises(DataError, match="holds no weights"):
            load_vq(spec, 1, path)
    torch.save(VQModel(spec, 3).state_dict(), path)
    with pytest.raises(DataError, match="3 of another shape: encoder.conv_in.weight is 8x3x3x3, not 8x1x3x3"):
        load_vq(spec, 1, path)
    model = build_model(tiny()).state_dict()
    del model["norm.weight"]
    torch.save(model | {"freqs_cis": torch.zeros(2)}, path)
    with pytest.raises(DataError, match="section model: 1 missing: norm.weight; 1 unexpected: freqs_cis. Change model"):
        initial_model(tiny(model__weights=str(path)))


class Evil:
    """A pickle that would run code."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (eval, ("1 + 1",))


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    torch.save({"model": Evil()}, tmp_path / "vq.pt")
    with pytest.raises(DataError, match="cannot be read as weights"):
        load_vq(tiny().tokenizer, 1, tmp_path / "vq.pt")


def test_safetensors_load_too(tmp_path: Path) -> None:
    model = build_model(tiny())
    save_file(model.state_dict(), tmp_path / "gpt.safetensors")
    loaded = initial_model(tiny(model__weights=str(tmp_path / "gpt.safetensors")))
    assert all(torch.equal(loaded.state_dict()[key], value) for key, value in model.state_dict().items())


def exported(home: Path, *arguments: str | Path) -> None:
    done = star_exp("weights", "export", *arguments, home=home, cwd=home)
    assert done.returncode == 0 and done.stdout.startswith("wrote "), done.stderr


def same(file: dict[str, Tensor], own: Path) -> None:
    state = load_weights(own)
    assert set(file) == set(state) and all(torch.equal(file[key], value) for key, value in state.items())


def test_exports_load_in_llamagens_layout_and_as_safetensors(home: Path) -> None:
    """Also back into `star`: a run of 0 steps on an exported checkpoint has the same validation loss."""
    spec = home / "one.yaml"
    spec.write_text(
        "experiment: one\ntitle: One\nprofile: tiny\ntargets: [train]\nrows: [{label: a}]\ntable: {caption: c, "
        "columns: [{title: NLL, metric: train/val_nll}]}\n"
    )
    (home / "profiles").symlink_to(Path(__file__).parent / "profiles")
    change = ["--set", "optim.steps=3", "--set", "resources.validate_every=2"]
    done = star_exp("run", spec, "--plain", *change, home=home, cwd=home)
    assert done.returncode == 0, done.stderr
    folder = next(home.glob("jobs/train-*"))
    key, nll = (
        folder.name.removeprefix("train-"),
        json.loads((folder / "result.json").read_text())["metrics"]["val_nll"],
    )

    for weights in ("student", "teacher", "best"):
        exported(home, key[:7], "--weights", weights, "--out", home / f"{weights}.pt")
        same(torch.load(home / f"{weights}.pt", weights_only=True)["model"], folder / "out" / f"{weights}.pt")
    exported(home, key, "--format", "safetensors", "--out", home / "hub" / "model.safetensors")
    same(load_file(home / "hub" / "model.safetensors"), folder / "out" / "student.pt")
    config = json.loads((home / "hub" / "config.json").read_text())
    assert (config["n_layer"], config["vocab_size"], config["grid"], config["ffn_hidden"]) == (2, 32, 7, 48)

    tokenizer = next(home.glob("jobs/tokenizer-*"))
    exported(home, tokenizer.name.removeprefix("tokenizer-"), "--out", home / "vq.pt")
    content = torch.load(home / "vq.pt", weights_only=True)["model"]
    assert content.pop(BUFFER).shape == (65536,)
    same(content, tokenizer / "out" / "vq.pt")

    again = star_exp("run", spec, "--plain", "--name", "two", "--set", f"model.weights={home / 'student.pt'}", "--set", "optim.steps=0",
                     home=home, cwd=home)  # fmt: skip
    assert again.returncode == 0, again.stderr
    results = [json.loads(path.read_text())["metrics"]["val_nll"] for path in home.glob("jobs/train-*/result.json")]
    assert results == [nll, nll]

    for arguments, message in (
        ((key, "--out", home / "x.bin"), "give a name that ends in .pt"),
        ((next(home.glob("jobs/encode-*")).name.removeprefix("encode-"),), "stage encode has no weights"),
        (("zzz",), "zzz"),
    ):
        refused = star_exp("weights", "export", *arguments, home=home, cwd=home)
        assert refused.returncode == 2 and message in refused.stderr and "Traceback" not in refused.stderr


MISNAMED = {
    "page.pt": (b"<!DOCTYPE html><html>", "it is a web page"),
    "page.npz": (b"\xef\xbb\xbf\n<html>", "it is a web page"),
    "lfs.safetensors": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3\n",
        "it is a pointer of Git LFS",
    ),
    "model.safetensors.index.json": (
        b'{"metadata": {"total_size": 3}, "weight_map": {}}',
        "it is the index of a checkpoint in several",
    ),
    "settings.pt": (b'{"a": 1}', "it is JSON"),
    "packed.pt": (b"\x1f\x8b\x08\x00", "it is a compressed archive"),
    "quantised.pt": (b"GGUF\x03", "it is a GGUF file"),
    "keras.pt": (b"\x89HDF\r\n", "it is an HDF5 file"),
    "nothing.pt": (b"", "it is empty"),
    "noise.pt": (bytes(range(128, 255)), "cannot be read as weights"),
}


@pytest.mark.parametrize("name", MISNAMED)
def test_files_that_are_something_else_are_told_what_they_are(name: str, tmp_path: Path) -> None:
    content, message = MISNAMED[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as found:
        load_weights(tmp_path / name)
    assert_no_bad_advice(str(found.value))


def assert_no_bad_advice(text: str) -> None:
    assert (
        "weights_only" not in text
        and "\x1b" not in text
        and "can still be loaded" not in text
        and len(text.splitlines()) == 1
    )


def test_a_pickle_is_not_recommended(tmp_path: Path) -> None:
    torch.save({"model": {}, "step": numpy.float64(1)}, tmp_path / "a.pt")
    torch.jit.script(torch.nn.Linear(1, 1)).save(str(tmp_path / "b.pt"))
    for name, message in (("a", "other Python objects than tensors .*numpy"), ("b", "is a TorchScript archive")):
        with pytest.raises(DataError, match=message) as found:
            load_weights(tmp_path / f"{name}.pt")
        assert_no_bad_advice(str(found.value))


def test_safetensors_are_known_by_their_content(tmp_path: Path) -> None:
    save_file({"a": torch.ones(3)}, tmp_path / "model.pt")
    assert load_weights(tmp_path / "model.pt")["a"].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda x: x * float("nan"), r"16 of the 16 numbers of norm.weight are NaN or infinite"),
        (
            lambda x: x.index_fill(0, torch.tensor([2]), float("inf")),
            r"1 of the 16 numbers of norm.weight are NaN or infinite",
        ),
        (lambda x: x.to(torch.int8), "norm.weight holds int8, and weights are floating-point"),
        (
            lambda x: x.to(torch.float8_e4m3fn),
            "norm.weight holds float8_e4m3fn, and weights are floating-point .* 16 bits",
        ),
        (lambda x: x.to(torch.complex64), "norm.weight holds complex64, and weights are floating-point"),
    ],
)
def test_weights_that_are_no_numbers_are_refused(change: Any, message: str, tmp_path: Path) -> None:
    spec = tiny(model__dim=16, model__weights=str(tmp_path / "w.pt"))
    state = build_model(spec).state_dict()
    torch.save({"model": state | {"norm.weight": change(state["norm.weight"])}}, tmp_path / "w.pt")
    with pytest.raises(DataError, match=message):
        initial_model(spec)


@pytest.mark.parametrize("sign", ["<", "{", "["])
def test_the_length_of_a_safetensors_header_may_look_like_anything(sign: str, tmp_path: Path) -> None:
    """Its first byte is a number's, and so may be a bracket's."""
    for padding in range(40):
        save_file({"a": torch.ones(9000)}, tmp_path / "w.safetensors", metadata={"x": "y" * (15_360 + padding * 8)})
        content = (tmp_path / "w.safetensors").read_bytes()
        header = (int.from_bytes(content[:8], "little") & ~0xFFFF) | 0x2000 | ord(sign)
        text = content[8 : 8 + int.from_bytes(content[:8], "little")].rstrip().ljust(header)
        if len(text) == header:
            break
    (tmp_path / "w.safetensors").write_bytes(header.to_bytes(8, "little") + text + bytes(36_000))
    head = (tmp_path / "w.safetensors").read_bytes()[:2]
    assert head == bytes([ord(sign), 0x20]) and misnamed(tmp_path / "w.safetensors") is None


def test_sparse_weights_are_refused(tmp_path: Path) -> None:
    spec = tiny(model__dim=16, model__weights=str(tmp_path / "w.pt"))
    state = build_model(spec).state_dict()
    torch.save({"model": state | {"norm.weight": state["norm.weight"].to_sparse()}}, tmp_path / "w.pt")
    with pytest.raises(DataError, match="norm.weight is a sparse tensor; save it dense"):
        initial_model(spec)


def test_archives_and_keys_that_stand_twice_are_refused(tmp_path: Path) -> None:
    numpy.savez(tmp_path / "w.pt.npz", a=numpy.ones(3))
    (tmp_path / "w.pt.npz").rename(tmp_path / "w.pt")
    with pytest.raises(
        DataError, match="w.pt: cannot be read as weights: it is a zip archive, whole or not, without torch's"
    ):
        load_weights(tmp_path / "w.pt")
    torch.save({"a": torch.ones(1), "module.a": torch.zeros(1)}, tmp_path / "twice.pt")
    with pytest.raises(DataError, match="holds both module.a and a, and nothing says which counts"):
        load_state(tmp_path / "twice.pt")
