"""Which images a folder holds, by the conventions of torchvision's ImageFolder: the one listing that all readers share.

A class is a folder of the first level below the root; its images may lie deeper. Classes come in the order of their names,
within a class its folders in the order of their paths, within a folder its files in the order of theirs.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from star.errors import DataError
from star.words import shown

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""torchvision's list: endings, in any case, of files that are taken as images."""
LEFT_BY_SYSTEMS = {"__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "system volume information"}
"""What operating systems and archives leave behind, lower case; like names that begin with a dot it never counts."""
State = tuple[int, int, int, int]
"""Of a file: bytes, time of modification and of change in nanoseconds, inode."""
NAMED = 3
"""Files that a note names."""


@dataclass
class Tree:
    """A folder as it is on disk: every folder below it with its images, and what is none."""

    root: Path
    folders: dict[str, list[str]] = field(default_factory=dict)
    """Path below the root ("" is the root itself) -> names of images, sorted; also folders without any."""
    states: dict[str, State] = field(default_factory=dict)
    """Path of each image below the root -> what the file system says of it, where it was asked."""
    strays: list[str] = field(default_factory=list)
    """Files that are no images by their endings."""
    lost: list[str] = field(default_factory=list)
    """Links that lead nowhere, or in a circle."""

    @classmethod
    def of(cls, root: Path, endings: tuple[str, ...] = EXTENSIONS, states: bool = False) -> Tree:
        """Look at a folder, links followed, once.

        Args:
            states: ask the file system about every file, which takes most of the time.

        Raises:
            DataError: a folder in it may not be read.
        """
        tree = cls(root)
        _scan(tree, str(root), "", endings, states, frozenset())
        tree.strays.sort()
        tree.lost.sort()
        return tree

    def top(self) -> dict[str, bool]:
        """Folders of the first level that hold images, sorted -> whether some lie in subfolders of theirs."""
        found: dict[str, bool] = {}
        for place, names in self.folders.items():
            if place and names:
                name = place.partition("/")[0]
                found[name] = found.get(name, False) or place != name
        return dict(sorted(found.items()))

    def classes(self, base: str = "") -> dict[str, list[str]]:
        """Class folders of `base`, in the order of their names -> all folders in them, in the order of their paths."""
        found: dict[str, list[str]] = {}
        start = f"{base}/" if base else ""
        for place in self.folders:
            if place and place.startswith(start):
                found.setdefault(place[len(start) :].partition("/")[0], []).append(place)
        return {name: sorted(found[name]) for name in sorted(found)}

    def images(self, base: str = "") -> list[tuple[str, str]]:
        """(path below the root, class) of every image in a class folder of `base`, in torchvision's order."""
        return [
            (f"{place}/{file}", name)
            for name, places in self.classes(base).items()
            for place in places
            for file in self.folders[place]
        ]

    def everything(self) -> list[str]:
        """Paths of all images below the root: those of the root itself, then as in `images`."""
        return [*self.folders.get("", []), *(name for name, _ in self.images())]

    def notes(self) -> list[str]:
        """What was left aside, for people."""
        said = []
        if self.strays:
            files = "1 file is" if len(self.strays) == 1 else f"{len(self.strays)} files are"
            said.append(f"{files} no image by the ending, and left aside: {_some(self.strays)}")
        if self.lost:
            links = "1 link leads" if len(self.lost) == 1 else f"{len(self.lost)} links lead"
            said.append(f"{links} nowhere, and left aside: {_some(self.lost)}")
        return said


def _some(names: list[str]) -> str:
    return ", ".join(map(shown, names[:NAMED])) + (", ..." if len(names) > NAMED else "")


def _scan(
    tree: Tree, path: str, place: str, endings: tuple[str, ...], ask: bool, above: frozenset[tuple[int, int]]
) -> None:
    """Args:
    above: device and inode of the folders on the way here: a link back to one of them is not followed.
    """
    images: list[str] = []
    tree.folders[place] = images
    states, below = tree.states, []
    prefix = f"{place}/" if place else ""
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                name = entry.name
                small = name.lower()
                if name[0] == "." or small in LEFT_BY_SYSTEMS:
                    continue
                if entry.is_symlink() and not os.path.exists(entry.path):
                    tree.lost.append(prefix + name)
                elif small.endswith(endings) and entry.is_file():
                    images.append(name)
                    if ask:
                        found = entry.stat()
                        states[prefix + name] = (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
                elif entry.is_dir():
                    below.append(name)
                else:
                    tree.strays.append(prefix + name)
    except OSError as error:
        raise DataError(f"{shown(path)}: cannot be looked into: {error.strerror}.") from None
    images.sort()
    if below:
        here = os.stat(path)
        chain = above | {(here.st_dev, here.st_ino)}
        for name in below:
            target = os.stat(os.path.join(path, name))
            if (target.st_dev, target.st_ino) not in chain:
                _scan(tree, os.path.join(path, name), prefix + name, endings, ask, chain)
