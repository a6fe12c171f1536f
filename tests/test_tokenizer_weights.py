"""A tokenizer from a checkpoint: LlamaGen's layouts load, everything else is refused in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from star.errors import DataError
from star.tokenizer.load import BUFFER, load_vq
from star.tokenizer.vq import VQModel
from tests.helpers import tiny


@pytest.mark.parametrize("layout", [None, "model", "ema", "state_dict"])
def test_layouts(tmp_path: Path, layout: str | None) -> None:
    spec = tiny().tokenizer
    state = VQModel(spec, 1).state_dict()
    content = state | {BUFFER: torch.zeros(7)}
    torch.save(content if layout is None else {layout: content, "steps": 3}, tmp_path / "vq.pt")
    loaded = load_vq(spec, 1, tmp_path / "vq.pt")
    assert not loaded.training
    assert all(torch.equal(loaded.state_dict()[key], value) for key, value in state.items())


def test_what_does_not_fit(tmp_path: Path) -> None:
    spec, path = tiny().tokenizer, tmp_path / "vq.pt"
    with pytest.raises(DataError, match="cannot be read as weights"):
        load_vq(spec, 1, path)
    path.write_bytes(b"not weights")
    with pytest.raises(DataError, match="cannot be read as weights"):
        load_vq(spec, 1, path)
    for odd in (torch.zeros(3), {"model": 3}, [1, 2]):
        torch.save(odd, path)
        with pytest.raises(DataError, match="holds no weights"):
            load_vq(spec, 1, path)
    torch.save({key: value for key, value in VQModel(spec, 1).state_dict().items() if "decoder" not in key}, path)
    with pytest.raises(DataError, match=r"missing: decoder\."):
        load_vq(spec, 1, path)
    torch.save(VQModel(spec, 3).state_dict(), path)
    with pytest.raises(DataError, match="3 of another shape"):
        load_vq(spec, 1, path)


class Evil:
    """A pickle that would run code."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (eval, ("1 + 1",))


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    torch.save({"model": Evil()}, tmp_path / "vq.pt")
    with pytest.raises(DataError, match="cannot be read as weights"):
        load_vq(tiny().tokenizer, 1, tmp_path / "vq.pt")
