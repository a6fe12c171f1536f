"""Frozen features for the probe: kept in memory if they fit, else computed again at each use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from star.data.codes import CodeStore
from star.model.gpt import GPT

DTYPES = {"fp32": torch.float32, "fp16": torch.float16}


class FeatureSource(Protocol):
    """Features of N images at P positions."""

    labels: Tensor
    """(N,) long, on the CPU."""

    def features(self, rows: Tensor, epoch: int | None = None) -> Tensor:
        """Features (B, P, D) float32 of images `rows`: centre crops if `epoch` is None, else that epoch's views."""
        ...

    def passes(self, rows: Tensor) -> Iterator[Tensor]:
        """Yield all features (b, P, D) of images `rows` that an epoch may train on, batch by batch."""
        ...


class BackboneFeatures:
    """Features of a code store's images: the backbone's output after `layer`, under the null label and unmasked.

    Args:
        positions: 1-based positions whose features are taken.
        stored_views: train on a stored view, a new draw in each epoch, in place of the centre crop.
        dtype: `fp32` or `fp16`, to which features are rounded, whether they are kept or not.
        limit: bytes that may be kept, on the model's device.
        seed: seed of the drawn views.
        progress: receives (images done, images) of the pass that fills what is kept.
    """

    def __init__(
        self,
        model: GPT,
        store: CodeStore,
        layer: int,
        positions: list[int],
        batch_size: int,
        *,
        stored_views: bool,
        dtype: str,
        seed: int,
        limit: float = float("inf"),
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self.model, self.store, self.layer, self.batch_size, self.seed = model, store, layer, batch_size, seed
        self.device = model.output.weight.device
        self.index = torch.tensor(positions, device=self.device) - 1
        self.labels = torch.from_numpy(store.labels)
        self.views = list(range(store.num_views)) if stored_views else [store.center_view]
        self.dtype = DTYPES[dtype]
        size = len(store) * len(self.views) * len(positions) * model.dim * self.dtype.itemsize
        self.kept: Tensor | None = None
        if size <= limit:
            self.kept = self._all(progress)

    def _all(self, progress: Callable[[int, int], None]) -> Tensor:
        """The features of all images, (views, N, P, D)."""
        shape = (len(self.views), len(self.store), len(self.index), self.model.dim)
        kept = torch.empty(shape, dtype=self.dtype, device=self.device)
        total = shape[0] * shape[1]
        for place, view in enumerate(self.views):
            for rows in torch.arange(len(self.store)).split(self.batch_size):
                kept[place, rows[0] : rows[-1] + 1] = self._computed(rows.numpy(), np.full(len(rows), view))
                progress(place * shape[1] + int(rows[-1]) + 1, total)
        return kept

    def features(self, rows: Tensor, epoch: int | None = None) -> Tensor:
        views = np.full(len(rows), self.store.center_view)
        if epoch is not None and len(self.views) > 1:
            views = _views_of_epoch(self.seed, epoch, len(self.store), len(self.views))[rows.numpy()]
        if self.kept is not None:
            place = torch.from_numpy(views if len(self.views) > 1 else np.zeros_like(views))
            return self.kept[place.to(self.device), rows.to(self.device)].float()
        parts = [
            self._computed(rows[i : i + self.batch_size].numpy(), views[i : i + self.batch_size])
            for i in range(0, len(rows), self.batch_size)
        ]
        return torch.cat(parts).float()

    def passes(self, rows: Tensor) -> Iterator[Tensor]:
        for place, view in enumerate(self.views):
            for some in rows.split(self.batch_size):
                if self.kept is not None:
                    yield self.kept[place, some.to(self.device)].float()
                else:
                    yield self._computed(some.numpy(), np.full(len(some), view)).float()

    @torch.no_grad()
    def _computed(self, rows: np.ndarray, views: np.ndarray) -> Tensor:
        codes = torch.from_numpy(self.store.gather(rows, views[:, None])[:, 0]).to(self.device)
        labels = torch.full((len(codes),), self.model.null_label, device=self.device)
        return self.model.hidden_at(codes, labels, self.layer)[:, self.index].to(self.dtype)


@lru_cache(maxsize=1)
def _views_of_epoch(seed: int, epoch: int, count: int, available: int) -> np.ndarray:
    return np.random.default_rng((seed, 3, epoch)).integers(0, available, count)
