"""What code runs: the commit, and whether the working tree differs from it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import star


def code_version() -> str:
    """`0.1.0+1a2b3c4d5e6f`, with `.dirty` after it when files of the package differ from the commit; without git the version alone."""
    folder = Path(star.__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=folder, check=True, capture_output=True, text=True, timeout=10
        ).stdout.strip()

    try:
        commit = git("rev-parse", "--short=12", "HEAD")
        return f"{star.__version__}+{commit}{'.dirty' if git('status', '--porcelain', '--', '.') else ''}"
    except (OSError, subprocess.SubprocessError):
        return star.__version__
