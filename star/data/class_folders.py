"""How to read a folder of images in class folders: which subfolders are splits and which are classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from star.data.folders import EXTENSIONS, Tree
from star.data.splits import WHOLE, Found, Splits, choose, is_held_out, role
from star.errors import DataError
from star.pipeline.config.dataset import DataSpec
from star.words import counted, shown

NAMED = 4
"""Most class names that the plan shows."""


@dataclass(frozen=True)
class ClassFolders:
    """An image folder's splits and classes: `class/...`, or `train/class/...` and `val/class/...`."""

    tree: Tree
    splits: Splits
    classes: list[str]
    test_fraction: float

    @classmethod
    def of(cls, tree: Tree, spec: DataSpec) -> ClassFolders:
        """Decide which subfolders are splits and which are classes.

        Raises:
            DataError: there are no images, the layout is ambiguous, or it does not match the spec.
        """
        where = shown(tree.root)
        if not any(tree.folders.values()):
            nothing = f"data.path: {where} holds no image ({', '.join(EXTENSIONS)})"
            raise DataError("; ".join((nothing, *tree.notes(), "give one with one subfolder per class.")))
        splits = _splits(tree, spec, where)
        base = splits.train or ""
        classes = list(tree.classes(base))
        filled = {name for _, name in tree.images(base)}
        place = f"{where}/{shown(base)}" if base else where
        if not filled:
            raise DataError(
                f"data.path: {place} has images but no subfolder for each class; put them in one subfolder per class "
                "(a single class wants one too)."
            )
        empty = [name for name in classes if name not in filled]
        if empty:
            raise DataError(
                f"data.path: {place} has the class folder {shown(empty[0])} without an image, which would shift the numbers of "
                "the classes behind it; fill it or take it away."
            )
        if len(classes) == 1 and base and role(classes[0]):
            raise DataError(
                f"data.path: {place} holds one folder, {shown(classes[0])}, which reads as a split and not as a class: its class folders "
                f"have to lie in {place} itself; move them up by one."
            )
        if len(classes) != spec.num_classes:
            some = ", ".join(map(shown, classes[:5])) + (", ..." if len(classes) > 5 else "")
            raise DataError(
                f"data.num_classes: {spec.num_classes}, but {place} has {counted(len(classes), 'class folder')}: {some}. If these "
                f"are the classes, write num_classes: {len(classes)} beside the path; if not, give another data.path or data.train_split."
            )
        found = cls(tree, splits, classes, spec.test_fraction)
        found._check_test(where)
        return found

    def _check_test(self, where: str) -> None:
        test = self.splits.test
        if test is None:
            return
        place = f"{where}/{shown(test)}"
        if not self.tree.images(test):
            count = len(self.tree.folders.get(test, []))
            raise DataError(
                f"data.path: {place} has {count} images but no class folders, so nobody knows their classes (data.num_classes counts "
                f"those of {shown(self.splits.train)}/): sort them into one subfolder per class, as ImageNet's script valprep.sh does with "
                f"its val/, or hold out a share of the training images instead with data.test_split: {shown(self.splits.train)}."
            )
        foreign = sorted({name for _, name in self.tree.images(test)} - set(self.classes))
        if foreign:
            raise DataError(
                f"data.path: {place} has the class {shown(foreign[0])}, which {shown(self.splits.train)}/ has not: name the classes "
                f"alike in both, or hold out a share of the training images instead with data.test_split: {shown(self.splits.train)}."
            )

    def files(self) -> tuple[list[tuple[str, str]], list[tuple[str, str]], list[int]]:
        """(path, class) of the training images, the same of the held-out ones, and the training images' numbers.

        The numbers count all images of the training folder, held-out ones included.
        """
        whole = self.tree.images(self.splits.train or "")
        if self.splits.test is not None:
            return whole, self.tree.images(self.splits.test), list(range(len(whole)))
        held = [is_held_out(name, self.test_fraction) for name, _ in whole]
        numbers = [i for i, out in enumerate(held) if not out]
        return [whole[i] for i in numbers], [image for image, out in zip(whole, held, strict=True) if out], numbers

    def found(self) -> Found:
        """The classes, the number of images of each split, and what was left out."""
        train, test, _ = self.files()
        base = self.splits.train or ""
        notes = [*self.splits.notes, *self.tree.notes()]
        for place in dict.fromkeys(("", base, self.splits.test or "")):
            if beside := len(self.tree.folders.get(place, [])):
                images = "1 image lies" if beside == 1 else f"{beside} images lie"
                notes.append(f"{images} in {_place(place)} itself, in no class folder, and left aside")
        for part, said in ((train, "is trained on"), (test, "is held out")):
            absent = sorted(set(self.classes) - {name for _, name in part})
            if absent and part:
                more = f" (nor of {len(absent) - 1} more)" if len(absent) > 1 else ""
                notes.append(f"no image of the class {shown(absent[0])} {said}{more}")
        names = list(map(shown, self.classes))
        ends = ", ".join(names if len(names) <= NAMED else [*names[: NAMED - 2], "...", names[-1]])
        return Found(len(names), len(train), len(test), _place(base), _place(self.splits.test), notes, names=ends)


def _place(name: str | None) -> str:
    return f"{shown(name)}/" if name else "a share by hash" if name is None else "the folder"


def _splits(tree: Tree, spec: DataSpec, where: str) -> Splits:
    top = tree.top()
    if spec.train_split == WHOLE:
        if spec.test_split is not None:
            raise DataError(
                "data.test_split: cannot be given with data.train_split: ., which takes every subfolder as a class."
            )
        return Splits()
    if spec.train_split is None:
        _refuse_deeper(tree, where)
    named = spec.train_split or spec.test_split
    splits = choose({name: role(name) for name in top} if named or any(top.values()) else {}, spec, where)
    if splits.train is None:
        _refuse_flat(list(top), where)
    elif spec.test_split is None and splits.test is None:
        _refuse_empty(tree, top, where)
    return splits


def _refuse_empty(tree: Tree, top: Mapping[str, bool], where: str) -> None:
    """Raise DataError if there is a held-out split without images: a share of the training images would stand for it."""
    for name in (name for name in tree.lost if "/" not in name and role(name)):
        raise DataError(
            f"data.path: {where}/{shown(name)} reads as a split and is a link that leads nowhere: mount what it leads to, or take it away."
        )
    for name in sorted({place.partition("/")[0] for place in tree.folders if place} - set(top)):
        if role(name) in ("validation", "test"):
            raise DataError(
                f"data.path: {where}/{shown(name)} reads as a split and holds no image: fill it, take it away, or hold out a share of the "
                "training images with data.test_split: the training part's name."
            )


def _refuse_deeper(tree: Tree, where: str) -> None:
    """Raise DataError if a subfolder holds `train` and another split: both would be trained on as one class."""
    below: dict[str, set[str]] = {}
    for place, images in tree.folders.items():
        steps = place.split("/")
        if images and len(steps) > 1:
            below.setdefault(steps[0], set()).add(steps[1])
    for name, inside in below.items():
        splits = sorted(one for one in inside if role(one))
        if {"train"} < set(map(role, splits)):
            place = f"{where}/{shown(name)}"
            raise DataError(
                f"data.path: {place} holds {', '.join(map(shown, splits))}, which read as splits: give {place} itself as "
                f"data.path, or say data.train_split: {WHOLE} to take every subfolder of {where} as a class, whatever lies in it."
            )


def _refuse_flat(top: list[str], where: str) -> None:
    """Raise DataError if held-out splits have no class folders: they would be read as classes and trained on."""
    held_out = [name for name in top if role(name) in ("validation", "test")]
    if held_out:
        raise DataError(
            f"data.path: {where} has {' and '.join(map(shown, [n for n in top if role(n)]))}, which read as splits but hold images and "
            "no class folders: give each one subfolder per class (a single class wants one too), or say data.train_split: . to "
            "take every subfolder as a class."
        )
