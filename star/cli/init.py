"""`star-exp init`: the example experiments and profiles, for those who have no clone."""

from __future__ import annotations

from pathlib import Path

import click

import star
from star.cli.options import PathType
from star.errors import DataError
from star.words import counted


def _ours() -> Path:
    """The folder of experiments that came with this package: of the clone, or as installed from a wheel."""
    beside = Path(star.__file__).parent.parent
    return next((folder for name in ("star_examples", "experiments") if (folder := beside / name).is_dir()), beside)


@click.command()
@click.argument("folder", type=PathType(file_okay=False), default=Path())
def init(folder: Path) -> None:
    """Write the example experiments and profiles to FOLDER/experiments (here by default). Files that differ are kept."""
    ours, target = _ours(), folder / "experiments"
    sources = sorted(ours.rglob("*.yaml"))
    if not sources:
        raise DataError(f"{ours}: holds no experiments; install star-exp again, or clone its repository.")
    written, kept = 0, []
    for source in sources:
        path = target / source.relative_to(ours)
        if path.exists():
            kept += [str(path)] if path.read_bytes() != source.read_bytes() else []
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(source.read_bytes())
        written += 1
    click.echo(f"wrote {counted(written, 'file')} to {target}; {len(sources) - written} were there already")
    if kept:
        click.echo(f"kept, though they differ from those of star-exp {star.__version__}: {', '.join(kept)}")
    where = "" if folder == Path() else f"cd {folder}; "
    click.echo(f"next: {where}star-exp data fetch fashion-mnist; star-exp run experiments/table4.yaml --seeds 0")
