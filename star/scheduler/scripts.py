"""Copies of users' scripts in the home: a command runs the files its key was made of, even if they change later."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from star.errors import DataError
from star.rundir import Home
from star.scheduler.plan import Plan
from star.spec import plugins as plugin_files
from star.spec.script_files import contents_of, digest_of, listing_of
from star.spec.scripts import scripts_of, source_of


def copy_of(home: Home, source: str) -> Path:
    """Path of a script's copy.

    Args:
        source: the text by which a key names the script's files and data.
    """
    return home.scripts / digest_of(json.loads(source)["files"])


def script_digest(folder: Path) -> str:
    """Return the name that a copy must have by its contents: their digest."""
    paths = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return digest_of(listing_of({path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}))


def keep_scripts(plan: Plan, home: Home) -> None:
    """Copy the files of every script and plugin that the plan's open jobs use, unless the home has them.

    Raises:
        DataError: a script or plugin was changed since the plan was made.
    """
    for job in plan.to_do:
        for plugin in job.spec.plugins_of(job.stage):
            if not (home.scripts / plugin.digest).is_dir():
                _place(home.scripts / plugin.digest, plugin_files.contents_of(plugin), Path(plugin.folder))
        script = scripts_of(job.spec).get(job.stage)
        if script is None:
            continue
        target = copy_of(home, job.run.sources[source_of(job.stage)])
        if target.is_dir():
            continue
        contents = contents_of(job.stage, script)
        if digest_of(listing_of(contents)) != target.name:
            raise DataError(
                f"stages.{job.stage}: its files were changed while this was planned; give the same command again."
            )
        _place(target, contents, Path(script.folder))


def _place(target: Path, contents: Mapping[str, bytes], folder: Path) -> None:
    """Write files as the folder `target`, whole or not at all."""
    new = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    for name, content in contents.items():
        (new / name).parent.mkdir(parents=True, exist_ok=True)
        (new / name).write_bytes(content)
        with suppress(OSError):  # executable files stay executable
            (new / name).chmod((folder / name).stat().st_mode | 0o600)
    new.mkdir(parents=True, exist_ok=True)
    try:
        os.rename(new, target)
    except OSError:  # another scheduler was first
        shutil.rmtree(new)
