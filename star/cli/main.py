"""`star-exp`: nouns and verbs. Hyper-parameters live in YAML alone. Each command imports what it needs when it runs.

Exit codes: 0 all done; 1 some job failed; 2 the user's mistake; 130 interrupted.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from star.errors import StarError

if TYPE_CHECKING:
    from star.spec.experiment import Experiment

HOME = click.option(
    "--home",
    type=click.Path(path_type=Path),
    default=Path("runs"),
    envvar="STAR_HOME",
    show_default=True,
    show_envvar=True,
    help="Folder of ledger, jobs, data, references and MLflow's database.",
)
OUT = click.option(
    "--out", type=click.Path(path_type=Path), default=Path("reports"), show_default=True, help="Folder for reports."
)
EXTRACTOR = [
    click.option(
        "--extractor",
        type=click.Choice(["inception", "efficientnet-lite0"]),
        default="inception",
        show_default=True,
        help="Network whose features are compared. Only Inception's give FID; the other, which comes with this package, FD.",
    ),
    click.option(
        "--weights",
        type=click.Path(path_type=Path),
        help="Inception's file, when it is not where `weights fetch` keeps it.",
    ),
    click.option(
        "--input-size",
        type=click.IntRange(32, 512),
        default=224,
        show_default=True,
        help="Side to which efficientnet-lite0 resizes its images.",
    ),
    click.option("--batch-size", type=click.IntRange(1), default=50, show_default=True, help="Images of a pass."),
    click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True),
    HOME,
]
BUDGET = click.option(
    "--budget-gpu-hours",
    "budget",
    type=click.FloatRange(min=0),
    help="Stop before anything starts when what is left costs more.",
)
FILE = click.argument("file", type=click.Path(path_type=Path))


def experiment_options(command: click.decorators.FC) -> click.decorators.FC:
    """The options that choose and change an experiment."""
    options = [
        FILE,
        click.option("--profile", help="Scale to run at: a name in profiles/ beside FILE, or a YAML file."),
        click.option(
            "--set",
            "sets",
            multiple=True,
            metavar="PATH=VALUE",
            help="Change the base of every row, such as optim.steps=200.",
        ),
        click.option("--seeds", metavar="0,1,2", help="Seeds in place of the file's."),
        click.option("--name", help="Make it an experiment of its own, with this name."),
        HOME,
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="star-exp")
def cli() -> None:
    """Run ablations of ST-AR, see how far they are, and write the tables."""


@cli.command()
@experiment_options
@OUT
@click.option(
    "--executor",
    type=click.Choice(["local", "slurm", "ray"]),
    default="local",
    envvar="STAR_EXECUTOR",
    show_default=True,
    show_envvar=True,
    help="Where jobs run: this machine, Slurm, or Ray.",
)
@click.option("--slots", type=click.IntRange(1), help="CPU slots of this machine to fill; its cores by default.")
@click.option("--plain", is_flag=True, help="Lines instead of the live view, also on a terminal.")
@click.option("--detach", is_flag=True, help="Leave the terminal: go on in a process of its own.")
@click.option("--fork", is_flag=True, help="Put runs with changed values in place of the experiment's former ones.")
@BUDGET
def run(
    file: Path,
    profile: str | None,
    sets: tuple[str, ...],
    seeds: str | None,
    name: str | None,
    home: Path,
    out: Path,
    executor: str,
    slots: int | None,
    plain: bool,
    detach: bool,
    fork: bool,
    budget: float | None,
) -> None:
    """Compute what FILE asks for and is not there yet; then write its table."""
    experiment = _experiment(file, profile, sets, seeds, name)
    from star.cli.run import RunOptions, run_experiment

    plain = plain or not sys.stdout.isatty()
    sys.exit(run_experiment(experiment, RunOptions(home, out, executor, slots, plain, fork, detach, budget)))


@cli.command()
@experiment_options
@BUDGET
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def plan(
    file: Path,
    profile: str | None,
    sets: tuple[str, ...],
    seeds: str | None,
    name: str | None,
    home: Path,
    budget: float | None,
    as_json: bool,
) -> None:
    """Show rows, runs and stages of FILE, what is done or shared, and what the rest will cost."""
    experiment = _experiment(file, profile, sets, seeds, name)
    from star.cli.plan import show_plan

    show_plan(experiment, home, budget, as_json)


@cli.command()
@experiment_options
@OUT
def report(
    file: Path, profile: str | None, sets: tuple[str, ...], seeds: str | None, name: str | None, home: Path, out: Path
) -> None:
    """Write the table of FILE from tracked metrics: Markdown, LaTeX, CSV, and where each number came from."""
    experiment = _experiment(file, profile, sets, seeds, name)
    from star.cli.run import write_report

    write_report(experiment, home, out)


@cli.command()
@HOME
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def status(home: Path, as_json: bool) -> None:
    """Experiments, their runs, and the jobs that are not done."""
    from star.cli.status import show_status

    show_status(home, as_json)


@cli.command()
@click.argument("key")
@HOME
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def show(key: str, home: Path, as_json: bool) -> None:
    """Everything about a run or a job; the start of KEY is enough."""
    from star.cli.status import show_key

    show_key(home, key, as_json)


@cli.command()
@click.argument("key")
@click.option("--follow", "-f", is_flag=True, help="Go on until the job is over.")
@HOME
def logs(key: str, home: Path, follow: bool) -> None:
    """What the workers of a job printed; for a run, of all its jobs."""
    from star.cli.status import show_logs

    show_logs(home, key, follow)


@cli.command()
@click.argument("key")
@click.option("--format", "form", type=click.Choice(["llamagen", "safetensors"]), default="llamagen", show_default=True)
@click.option(
    "--weights",
    type=click.Choice(["student", "teacher", "best"]),
    default="student",
    show_default=True,
    help="Of a transformer; best is there where resources.validate_every looked for it.",
)
@click.option("--out", "target", type=click.Path(path_type=Path), help="File to write; named after the job by default.")
@HOME
def export(key: str, form: str, weights: str, target: Path | None, home: Path) -> None:
    """Write the weights of a run, a train job or a tokenizer job; the start of KEY is enough."""
    from star.cli.export import export_weights

    export_weights(home, key, weights, form, target)


def extractor_options(command: click.decorators.FC) -> click.decorators.FC:
    """The options that choose a network and how it runs."""
    for option in reversed(EXTRACTOR):
        command = option(command)
    return command


@cli.command()
@click.argument("reference", type=click.Path(path_type=Path))
@click.argument("samples", type=click.Path(path_type=Path))
@extractor_options
@click.option("--neighbours", type=click.IntRange(1), default=3, show_default=True, help="k of precision and recall.")
@click.option("--json", "as_json", is_flag=True, help="For programs; a number that cannot be had is null.")
def evaluate(
    reference: Path, samples: Path, home: Path, weights: Path | None, as_json: bool, **options: object
) -> None:
    """FID, sFID, inception score, precision and recall of SAMPLES against REFERENCE, as ADM's evaluator prints them.

    Each is a folder of .png, .jpg, .webp or .bmp files (subfolders too), an .npz with arr_0, or an .npy of bytes (N, height,
    width, 3 or 1), all images of one size; REFERENCE may also be a reference file with mu, sigma, mu_s, sigma_s. What is
    known of a REFERENCE is kept in the home's folder `references`, which may be removed.
    """
    from star.cli.evaluate import score_files

    sys.exit(score_files(home, reference, samples, None, weights, as_json=as_json, **options))


@cli.command()
@click.argument("images", type=click.Path(path_type=Path))
@click.argument("file", type=click.Path(path_type=Path))
@extractor_options
def reference(images: Path, file: Path, home: Path, weights: Path | None, **options: object) -> None:
    """Write the moments of IMAGES, and up to 10,000 of them, to FILE (.npz) in the layout of ADM's reference files."""
    if file.suffix != ".npz":
        raise StarError(f"{file}: give a name that ends in .npz, as reference files do.")
    from star.cli.evaluate import score_files

    sys.exit(score_files(home, images, None, file, weights, as_json=False, neighbours=1, **options))


@cli.group()
def weights() -> None:
    """Weights of the network that FID is computed with."""


@weights.command(name="fetch")
@click.argument("name", type=click.Choice(["inception"]))
@click.option("--from", "source", type=click.Path(path_type=Path), help="Take the file from here, or from this folder.")
@HOME
def fetch_weights(name: str, source: Path | None, home: Path) -> None:
    """Get the weights of network NAME, checked by SHA-256."""
    from star.data import inception_file
    from star.rundir import Home

    target = inception_file.kept(Home(home).data)
    click.echo(f"{name}: {target} ({inception_file.inception(target, source)})")


@cli.group()
def data() -> None:
    """Images."""


@data.command()
@click.argument("name", type=click.Choice(["fashion-mnist"]))
@click.option("--from", "folder", type=click.Path(path_type=Path), help="Take the four files from this folder.")
@HOME
def fetch(name: str, folder: Path | None, home: Path) -> None:
    """Get the images of data set NAME, checked by SHA-256."""
    from star.data.fetch import fashion_mnist
    from star.rundir import Home

    target = Home(home).data / name
    click.echo(f"{name}: 70000 images in {target} ({fashion_mnist(target, folder)})")


def _experiment(
    file: Path, profile: str | None, sets: tuple[str, ...], seeds: str | None, name: str | None
) -> Experiment:
    from star.report.published import check
    from star.spec.load import load

    experiment = load(file, profile, sets, _seeds(seeds), name)
    check(experiment)
    return experiment


def _seeds(text: str | None) -> list[int] | None:
    if text is None:
        return None
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts) or len({int(part) for part in parts}) != len(parts):
        raise StarError(f"--seeds {text}: give different whole numbers from 0, separated by commas, such as 0,1,2.")
    return [int(part) for part in parts]


def main() -> None:
    """Entry point: a user's mistake becomes one sentence and exit code 2."""
    try:
        cli()
    except StarError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
