"""Homes to show, boards that show them, and a real browser."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from star.rundir import Home
from tests.board.server import BoardServer
from tests.helpers import DATA, ROOT, TINY, star_exp

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-quic"),
]
BAD = "bad"
"""An experiment whose training diverges."""


@pytest.fixture(scope="module")
def shown(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with two experiments on real images: tests/tiny.yaml, all done, and BAD, whose training fails.

    Computed once for all test processes; each file of tests gets a copy, which it may change.
    """
    original = prepared.parent / "shown"
    with FileLock(f"{original}.lock"):
        if not (original / "whole").exists():
            _compute(prepared, original)
            (original / "whole").touch()
    copy = tmp_path_factory.mktemp("shown") / "copy"
    shutil.copytree(original, copy, symlinks=True)
    return copy / "home"


def _compute(prepared: Path, folder: Path) -> None:
    home, files = folder / "home", folder / "experiments"
    shutil.copytree(prepared / "jobs", home / "jobs")
    (home / "data").mkdir()
    (home / "data" / "fashion-mnist").symlink_to(DATA)
    files.mkdir()
    (files / "profiles").symlink_to(ROOT / "tests" / "profiles")
    shutil.copy(TINY, files / "tiny.yaml")
    text = TINY.read_text().replace("experiment: tiny", f"experiment: {BAD}")
    text = text.replace("selfguided.mask_ratio: [0.25, 0.5]", "optim.lr: [1.0e+30]")
    (files / f"{BAD}.yaml").write_text(text.replace("match: {mask_ratio: selfguided.mask_ratio}", ""))
    for name, code in (("tiny", 0), (BAD, 1)):
        done = star_exp("run", files / f"{name}.yaml", "--plain", home=home, cwd=folder)
        assert done.returncode == code, done.stdout + done.stderr
    _search(home)


def _search(home: Path) -> None:
    """A study whose parameters are a number and a choice among texts."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(storage=f"sqlite:///{Home(home).studies}", study_name="look@tiny")
    for number in range(6):
        trial = study.ask()
        lr, kind = trial.suggest_float("optim.lr", 1e-4, 1e-1, log=True), trial.suggest_categorical("kind", ["a", "b"])
        study.tell(trial, lr + number + (kind == "a"))


@pytest.fixture(scope="module")
def board(shown: Path) -> Iterator[BoardServer]:
    """A board on it, which may change things for whoever has the token."""
    server = BoardServer(shown, "--experiments", str(shown.parent / "experiments"), cwd=shown.parent)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A real browser without a screen."""
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed; `make engines` installs it on Debian")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser: Any = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        make = browser.new_context

        def patient(**options: Any) -> Any:
            context = make(**options)
            context.set_default_timeout(200_000)  # on a loaded machine an answer may take half a minute
            return context

        browser.new_context = patient
        browser.new_page = lambda **options: patient(**options).new_page()
        yield browser
        browser.close()
