"""Recognises files that are not what they should be: downloads go wrong in a few well-known ways."""

from __future__ import annotations

import re
from pathlib import Path

HEAD = 512
"""Number of bytes at a file's start that are looked at."""
KNOWN = (
    (rb"(\xef\xbb\xbf)?\s*<", "it is a web page, not the file; fetch it from the address that gives the file itself"),
    (rb"version https://git-lfs", "it is a pointer of Git LFS; `git lfs pull` fetches the file in its place"),
    (
        rb"\s*\{.*(weight_map|total_size)",
        "it is the index of a checkpoint in several files, without weights in it; give those, merged into one file",
    ),
    (rb"\s*[{\[]", "it is JSON, and holds no tensors; give the file that does"),
    (rb"\x1f\x8b|BZh|\xfd7zXZ|7z\xbc\xaf", "it is a compressed archive; unpack it first"),
    (rb"GGUF", "it is a GGUF file, quantised for another program; give the original checkpoint"),
    (rb"\x89HDF", "it is an HDF5 file; give torch's .pt or a .safetensors"),
)
"""(pattern of a file's first bytes, what the file then is and what to do)."""


def misnamed(path: Path) -> str | None:
    """What a file is that should hold weights, arrays or an image, as a clause with the remedy.

    Returns:
        None if no known mistake is recognised, as for a correct file, or if the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
    except OSError:
        return None
    if not head:
        return "it is empty; fetch it again"
    if is_safetensors(path):
        return None  # they begin with a number, which may look like anything
    return next((told for start, told in KNOWN if re.match(start, head, re.DOTALL)), None)


def is_safetensors(path: Path) -> bool:
    """Whether a file is safetensors by its content, whatever its name: the length of a JSON header, then the header.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(9)
    return head[8:] == b"{" and 1 < int.from_bytes(head[:8], "little") < path.stat().st_size
