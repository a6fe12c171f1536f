"""Which part of a data set is trained on and which is held out, by the names of its folders or files, never guessed."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

from star.errors import DataError
from star.pipeline.config.dataset import DataSpec
from star.words import shown

Split = Literal["train", "test"]
TRAIN = ("train", "training")
VALIDATION = ("val", "valid", "validation")
TEST = ("test", "testing", "eval", "evaluation", "dev")
"""Usual names; case is ignored. Validation is preferred, as test sets such as ImageNet's have no labels."""
BESIDE = ("set", "data", "dataset", "split", "images", "image", "imgs", "img", "seg")
"""Words that stand beside such a name and change nothing."""
MOST_WORDS = 3
WHOLE = "."
"""The value of `data.train_split` that means the folder itself, whatever its subfolders are called."""


@dataclass(frozen=True)
class Splits:
    """Names of the training and test parts of a data set."""

    train: str | None = None
    """None: the whole data set, of which a share is held out."""
    test: str | None = None
    """None: a share of the training part, chosen by hash."""
    notes: list[str] = field(default_factory=list)


@dataclass
class Found:
    """What a data set holds, for people and for the plan."""

    classes: int
    train: int
    test: int
    train_from: str
    """Where the training images lie, such as `train/`."""
    test_from: str
    notes: list[str] = field(default_factory=list)
    broken: str = ""
    """A message on checked images that cannot be used; empty if there are none."""
    names: str = ""
    """The first and last names of the classes in the order of their numbers; empty if they have none."""


def role(name: str) -> str | None:
    """`train`, `validation` or `test`, as a part's name says; None if it says none of these."""
    # also train2017, val-1, training_set, seg_train
    words = [word for word in re.split(r"[\W_\d]+", name.lower()) if word]
    told = [word for word in words if word not in BESIDE]
    small = told[0] if len(told) == 1 and len(words) <= MOST_WORDS else ""
    for found, names in (("train", TRAIN), ("validation", VALIDATION), ("test", TEST)):
        if small in names:
            return found
    return None


def choose(parts: Mapping[str, str | None], spec: DataSpec, where: str) -> Splits:
    """Choose the parts to train on and to test with.

    Args:
        parts: name of each candidate -> its role according to the name.
        where: what error messages call the data set.

    Raises:
        DataError: the choice is ambiguous, or a part that the spec names does not exist.
    """
    train = _named(parts, spec.train_split, "train_split", where)
    test = _named(parts, spec.test_split, "test_split", where)
    if train is None:
        train = _one([name for name in sorted(parts) if parts[name] == "train"], "train_split", where)
    held_out = [name for name in sorted(parts) if parts[name] in ("validation", "test") and name != train]
    if train is None and (held_out or test is not None):
        names = ", ".join(map(shown, [test] if test else held_out))
        raise DataError(
            f"data.train_split: {where} has {names} to hold out but no part called {' or '.join(TRAIN)}; "
            f"name the part to train on with data.train_split ({WHOLE} takes the folder itself, with every subfolder a class)."
        )
    if train is None:
        return Splits()
    notes = []
    if test is None:
        validation = [name for name in held_out if parts[name] == "validation"]
        test = _one(validation or held_out, "test_split", where)
    rest = [name for name in sorted(parts) if parts[name] is None and name not in (train, test)]
    if rest and spec.train_split is None:
        raise DataError(
            f"data.train_split: {where} has {shown(train)}, which reads as a split, beside {_some(rest)}, which do not: "
            f"name the part to train on with data.train_split ({shown(train)}, or {WHOLE} for the whole folder, every "
            "subfolder a class)."
        )
    aside = [name for name in sorted(parts) if name not in (train, test)]
    if aside:
        notes.append(f"left aside: {_some(aside)} (data.train_split and data.test_split choose)")
    return Splits(train, None if test == train else test, notes)


def _named(parts: Collection[str], wanted: str | None, field_name: str, where: str) -> str | None:
    if wanted is None:
        return None
    wanted = wanted.strip("/")
    found = [name for name in parts if name == wanted] or [n for n in parts if n.lower() == wanted.lower()]
    if len(found) != 1:
        raise DataError(f"data.{field_name}: {where} has no part {wanted!r}; it has: {_some(sorted(parts)) or 'none'}.")
    return found[0]


def _one(names: list[str], field_name: str, where: str) -> str | None:
    if len(names) > 1:
        raise DataError(
            f"data.{field_name}: {where} has {' and '.join(map(shown, names))}, and either could be meant; name one with "
            f"data.{field_name}."
        )
    return names[0] if names else None


def _some(names: list[str]) -> str:
    return ", ".join(map(shown, names[:5])) + (", ..." if len(names) > 5 else "")


def is_held_out(name: str, test_fraction: float) -> bool:
    """Whether an image is held out if the data set has no test split: a fixed share, by the hash of its name."""
    return int(hashlib.sha256(os.fsencode(name)).hexdigest()[:8], 16) / 2**32 < test_fraction
