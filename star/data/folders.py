"""Which images a folder holds, by the conventions of torchvision's ImageFolder. All readers use this listing.

A class is a folder of the first level below the root; its images may lie deeper. Classes are sorted by name, the
folders of a class by path, and the files of a folder by name.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from star.errors import DataError
from star.words import shown

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Endings of image files, as in torchvision; case is ignored."""
LEFT_BY_SYSTEMS = {
    *("__macosx", "thumbs.db", "desktop.ini", "system volume information", "lost+found"),
    *("$recycle.bin", "#recycle", "@recycle", "@eadir"),
}
"""Names (in lower case) that operating systems and archives leave behind; ignored, like names that begin with a dot."""
State = tuple[int, int, int, int]
"""A file's size in bytes, modification and change times in nanoseconds, and inode."""
NAMED = 3
"""Most files that a note names."""


@dataclass
class Tree:
    """A folder as it is on disk: every folder below it with its images, and the files that are not images."""

    root: Path
    folders: dict[str, list[str]] = field(default_factory=dict)
    """Path below the root ("" is the root itself) -> sorted names of its images; includes folders without images."""
    states: dict[str, State] = field(default_factory=dict)
    """Path of each image below the root -> its state; empty unless `of` was asked for states."""
    strays: list[str] = field(default_factory=list)
    """Files whose endings are not those of images."""
    lost: list[str] = field(default_factory=list)
    """Symbolic links that are broken or lead to themselves."""
    back: list[str] = field(default_factory=list)
    """Symbolic links to a folder above them, which are not followed."""

    @classmethod
    def of(cls, root: Path, endings: tuple[str, ...] = EXTENSIONS, states: bool = False) -> Tree:
        """Scan a folder once, following symbolic links.

        Args:
            states: record the state of every image, which takes most of the time.

        Raises:
            DataError: a folder in it cannot be read.
        """
        tree = cls(root)
        try:
            _scan(tree, str(root), "", endings, states, frozenset())
        except RecursionError:
            raise DataError(f"{shown(root)}: folders are nested too deep in it; bring the images further up.") from None
        tree.strays.sort()
        tree.lost.sort()
        tree.back.sort()
        return tree

    def top(self) -> dict[str, bool]:
        """First-level folders that hold images, sorted by name -> whether some of these lie in subfolders."""
        found: dict[str, bool] = {}
        for place, names in self.folders.items():
            if place and names:
                name = place.partition("/")[0]
                found[name] = found.get(name, False) or place != name
        return dict(sorted(found.items()))

    def classes(self, base: str = "") -> dict[str, list[str]]:
        """Class folders of `base`, sorted by name -> the class folder and all folders below it, sorted by path."""
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
        """Paths of all images below the root: those in the root itself, then the others in the order of `images`."""
        return [*self.folders.get("", []), *(name for name, _ in self.images())]

    def notes(self) -> list[str]:
        """Notes for people on the files and links that were ignored."""
        said = []
        if self.strays:
            files = "1 file is" if len(self.strays) == 1 else f"{len(self.strays)} files are"
            said.append(f"{files} no image by the ending, and left aside: {_some(self.strays)}")
        if self.lost:
            links = "1 link leads" if len(self.lost) == 1 else f"{len(self.lost)} links lead"
            said.append(f"{links} nowhere, and left aside: {_some(self.lost)}")
        if self.back:
            links = (
                "1 link leads back to a folder"
                if len(self.back) == 1
                else f"{len(self.back)} links lead back to folders"
            )
            said.append(f"{links} above, and left aside: {_some(self.back)}")
        return said


def _some(names: list[str]) -> str:
    return ", ".join(map(shown, names[:NAMED])) + (", ..." if len(names) > NAMED else "")


def _scan(
    tree: Tree, path: str, place: str, endings: tuple[str, ...], ask: bool, above: frozenset[tuple[int, int]]
) -> None:
    """Add the folder at `path` and everything below it to `tree`.

    Args:
        above: device and inode of the folders on the way here; a link back to one of them is not followed.
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
            if (target.st_dev, target.st_ino) in chain:
                tree.back.append(prefix + name)
            else:
                _scan(tree, os.path.join(path, name), prefix + name, endings, ask, chain)
