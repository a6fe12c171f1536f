"""Find the commit a folder of code is at, and how the code differs from it.

Both come from git's objects, so that user settings cannot change the answer. The compared contents are those that were
copied. `git diff` would compare the files as they are a moment later, through whatever diff program, colours, prefixes
and filters the user has set.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Commit:
    """The commit that holds a folder's code, and how the code differs from it."""

    name: str
    """The commit's hash, in hexadecimal."""
    diff: str
    """Unified diff with paths from the repository's root; "" where nothing differs."""


def commit_of(folder: Path, contents: Mapping[str, bytes]) -> Commit | None:
    """Return the commit that a folder's files are based on, and their diff against it.

    Args:
        contents: path in the folder (with `/`) -> bytes, of all readable files.

    Returns:
        None where no repository tracks the folder's `__init__.py` (a package in a project's virtual environment only happens
        to lie inside a repository, whose commit says nothing about it), nothing was committed yet, or git is missing or fails.
    """
    try:
        name = _git(folder, "rev-parse", "--verify", "HEAD^{commit}").decode().strip()
        prefix = os.fsdecode(_git(folder, "rev-parse", "--show-prefix")).rstrip("\n")
        listed = _git(folder, "ls-tree", "-r", "-z", name, "--", ".")
        tracked = dict(_entry(line) for line in listed.split(b"\0") if line.startswith(b"100"))  # files
        if "__init__.py" not in tracked:
            return None
        texts = [
            _difference(folder, prefix + file, tracked.get(file), contents.get(file))
            for file in sorted({*tracked, *contents} - _passed_over(folder, contents.keys() - tracked.keys()))
        ]
        return Commit(name, "".join(texts))
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str, given: bytes = b"", codes: tuple[int, ...] = (0,)) -> bytes:
    """Run git in `folder` and return its output.

    The repository may belong to another user: its code is what runs anyway, and nothing in it is changed.
    """
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    command = ["git", "-c", "safe.directory=*", "-c", "core.fsmonitor=false", "--no-replace-objects", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, input=given, capture_output=True, timeout=20)
    if done.returncode not in codes:
        raise subprocess.CalledProcessError(done.returncode, command)
    return done.stdout


def _entry(line: bytes) -> tuple[str, str]:
    """`MODE blob HASH<tab>NAME` -> (name, hash)."""
    head, _, name = line.partition(b"\t")
    return os.fsdecode(name), head.split()[2].decode()


def _passed_over(folder: Path, names: set[str]) -> set[str]:
    """Return those of `names` that git ignores and Python cannot import, such as an editor's or a desktop's files."""
    others = sorted(name for name in names if not name.endswith((".py", ".so")))
    if not others:
        return set()
    given = b"".join(os.fsencode(name) + b"\0" for name in others)
    ignored = _git(folder, "check-ignore", "-z", "--stdin", "--no-index", given=given, codes=(0, 1))
    return {os.fsdecode(name) for name in ignored.split(b"\0") if name}


def _difference(folder: Path, name: str, tracked: str | None, content: bytes | None) -> str:
    """The unified diff of one file from its committed blob to its contents; None stands for a missing file."""
    if tracked is not None and content is not None and _blob(content, tracked) == tracked:
        return ""
    before = None if tracked is None else _git(folder, "cat-file", "blob", tracked)
    if before is not None and content is not None and before.replace(b"\r\n", b"\n") == content.replace(b"\r\n", b"\n"):
        return ""  # the checkout converted line endings
    name = os.fsencode(name).decode(errors="replace")
    old, new = "/dev/null" if before is None else f"a/{name}", "/dev/null" if content is None else f"b/{name}"
    if b"\0" in (before or b"") + (content or b""):
        return f"Binary files {old} and {new} differ\n"
    lines = list(difflib.unified_diff(_lines(before), _lines(content), old, new))
    return "".join(lines) or f"--- {old}\n+++ {new}\n"  # an empty file that was added or removed


def _blob(content: bytes, like: str) -> str:
    """Git's hash of a file's contents, by the hash function that gave `like`."""
    whole = hashlib.sha1 if len(like) == 40 else hashlib.sha256
    return whole(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _lines(content: bytes | None) -> list[str]:
    text = (content or b"").decode(errors="replace")
    lines = [f"{line}\n" for line in text.split("\n")]
    last = lines.pop()  # empty where the text ends with a newline
    return [*lines, f"{last}\\ No newline at end of file\n"] if last != "\n" else lines
