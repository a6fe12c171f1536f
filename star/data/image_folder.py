"""Images in class folders, with splits or without."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from star.data.class_folders import ClassFolders
from star.data.decoding import Decoded
from star.data.splits import Split
from star.pipeline.config.dataset import DataSpec


class ImageFolder(Decoded):
    """One split of images in class folders; classes are numbered by their sorted names in the training split."""

    def __init__(self, folders: ClassFolders, split: Split, spec: DataSpec, threads: int) -> None:
        super().__init__(spec, threads)
        self.root = folders.tree.root
        train, test, numbers = folders.files()
        chosen = train if split == "train" else test
        places = {name: i for i, name in enumerate(folders.classes)}
        self.files = [name for name, _ in chosen]
        """Paths below the root."""
        self.labels = np.array([places[name] for _, name in chosen], dtype=np.int64)
        self.numbers = np.array(numbers, dtype=np.int64) if split == "train" else np.arange(len(chosen))
        self.total = len(train) + (len(test) if folders.splits.test is None else 0)

    def source(self, index: int) -> tuple[Path | bytes, str]:
        path = self.root / self.files[index]
        return path, str(path)

    def names(self) -> Sequence[str]:
        return self.files
