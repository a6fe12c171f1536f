"""`star-exp board`: the pages of a home, in a browser."""

from __future__ import annotations

from pathlib import Path

import click

from star.cli.options import HOME, OUT, PathType, Whole
from star.errors import StarError

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@click.command()
@HOME
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on; others see it only if told."
)
@click.option("--port", type=Whole(0, 65535), default=8090, show_default=True, help="0 takes a free one.")
@click.option(
    "--allow-host",
    "names",
    multiple=True,
    metavar="NAME",
    help="A name by which browsers may address it, besides loopback.",
)
@click.option(
    "--token-file",
    type=PathType(),
    help="File with the token that lets a viewer change things; STAR_BOARD_TOKEN works too. Without: it only shows.",
)
@click.option(
    "--experiments",
    type=PathType(),
    default=Path("experiments"),
    show_default=True,
    help="Folder whose experiments may be started from the page.",
)
@OUT
@click.option("--mlflow-ui", metavar="URL", help="MLflow's pages to link to; the tracking server by default.")
@click.option("--optuna-ui", metavar="URL", help="optuna-dashboard's pages to link to.")
@click.option(
    "--https",
    is_flag=True,
    envvar="STAR_BOARD_HTTPS",
    help="Browsers come by https, through a proxy: send the cookie by nothing else.",
)
def board(
    home: Path,
    host: str,
    port: int,
    names: tuple[str, ...],
    token_file: Path | None,
    experiments: Path,
    out: Path,
    mlflow_ui: str | None,
    optuna_ui: str | None,
    https: bool,
) -> None:
    """Show everything in a browser, live: experiments, tables, curves, samples, queue, failures, searches."""
    import os
    import re

    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # do not wait for a server that is away
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    from star.cli.store import tracking_uri
    from star.rundir import Home
    from star.tracking.reader import without_password

    try:
        from star_board.serve import serve
        from star_board.settings import Settings, read_token
    except ModuleNotFoundError as error:
        raise StarError(f"board: {error.name} is not installed; `pip install star-exp` brings it.") from None
    for option, url in (("--mlflow-ui", mlflow_ui), ("--optuna-ui", optuna_ui)):
        if url is not None and not url.startswith(("http://", "https://")):
            raise StarError(f"{option} {url}: give an address such as http://127.0.0.1:5000.")
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:]+\]", name):
            raise StarError(
                f"--allow-host {name}: give a host's name alone, such as board.example.org, without http:// and port."
            )
    tracking = os.environ.get("MLFLOW_TRACKING_URI", "")
    settings = Settings(
        home=Home(home).path,
        tracking_uri=tracking_uri(Home(home)),
        token=read_token(token_file, os.environ.pop("STAR_BOARD_TOKEN", None)),  # child processes do not need it
        hosts=(*names, *([host] if host not in ("0.0.0.0", "::") else [])),
        experiments=experiments,
        out=out,
        mlflow_ui=mlflow_ui or (without_password(tracking) if tracking.startswith("http") else None),
        optuna_ui=optuna_ui,
        https=https,
    )
    if host not in LOOPBACK:
        click.echo(
            f"listening on {host}: whoever reaches it sees everything"
            + (", and needs the token to change anything." if settings.token else "."),
            err=True,
        )
    serve(settings, host, port, click.echo)
