"""Commands about images and weights: `evaluate`, `reference`, `weights`, `data`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from star.cli.options import HOME, KEY, OnceGroup, PathType, Whole, extractor_options
from star.errors import StarError


@click.command()
@click.argument("reference", type=PathType())
@click.argument("samples", type=PathType())
@extractor_options
@click.option("--neighbours", type=Whole(1), default=3, show_default=True, help="k of precision and recall.")
@click.option("--json", "as_json", is_flag=True, help="For programs; a number that cannot be had is null.")
def evaluate(
    reference: Path, samples: Path, home: Path, weights: Path | None, as_json: bool, **options: object
) -> None:
    """FID, sFID, inception score, precision and recall of SAMPLES against REFERENCE, as ADM's evaluator prints them.

    Each is a folder of images (.png, .jpg, .webp, .bmp, .tif, .ppm, .pgm; subfolders too), an .npz with arr_0, or an .npy of
    bytes (N, height, width) or (N, height, width, 1 or 3), all images of one size; REFERENCE may also be a reference file
    with mu, sigma, mu_s, sigma_s. What is known of a REFERENCE is kept in the home's folder `references`, which may be
    removed.
    """
    from star.cli.evaluate import score_files

    sys.exit(score_files(home, reference, samples, None, weights, as_json=as_json, **options))


@click.command()
@click.argument("images", type=PathType())
@click.argument("file", type=PathType())
@extractor_options
def reference(images: Path, file: Path, home: Path, weights: Path | None, **options: object) -> None:
    """Write the moments of IMAGES, and up to 10,000 of them, to FILE (.npz) in the layout of ADM's reference files."""
    if file.suffix != ".npz":
        raise StarError(f"{file}: give a name that ends in .npz, as reference files do.")
    from star.cli.evaluate import score_files

    sys.exit(score_files(home, images, None, file, weights, as_json=False, neighbours=1, **options))


@click.group(cls=OnceGroup)
def weights() -> None:
    """Weights: of a run, for other programs; of the network that FID is computed with."""


@weights.command(name="fetch")
@click.argument("name", type=click.Choice(["inception"]))
@click.option("--from", "source", type=PathType(), help="Take the file from here, or from this folder.")
@HOME
def fetch_weights(name: str, source: Path | None, home: Path) -> None:
    """Get the weights of network NAME, checked by SHA-256."""
    from star.data import inception_file
    from star.rundir import Home

    target = inception_file.kept(Home(home).data)
    click.echo(f"{name}: {target} ({inception_file.inception(target, source)})")


@click.group(cls=OnceGroup)
def data() -> None:
    """Images."""


@data.command()
@click.argument("name", type=click.Choice(["fashion-mnist"]))
@click.option("--from", "folder", type=PathType(), help="Take the four files from this folder.")
@HOME
def fetch(name: str, folder: Path | None, home: Path) -> None:
    """Get the images of data set NAME, checked by SHA-256."""
    from star.data.fetch import fashion_mnist
    from star.rundir import Home

    target = Home(home).data / name
    click.echo(f"{name}: 70000 images in {target} ({fashion_mnist(target, folder)})")


@weights.command(name="export")
@KEY
@click.option("--format", "form", type=click.Choice(["llamagen", "safetensors"]), default="llamagen", show_default=True)
@click.option(
    "--weights",
    type=click.Choice(["student", "teacher", "best"]),
    default="student",
    show_default=True,
    help="Of a transformer; best is there where resources.validate_every looked for it.",
)
@click.option("--out", "target", type=PathType(), help="File to write; named after the job by default.")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16"]),
    default="fp32",
    show_default=True,
    help="fp16 halves the file.",
)
@HOME
def export_weights_(key: str, form: str, weights: str, target: Path | None, precision: str, home: Path) -> None:
    """Write the weights of a run, a train job or a tokenizer job; the start of KEY is enough."""
    from star.cli.export import export_weights

    export_weights(home, key, weights, form, target, precision)
