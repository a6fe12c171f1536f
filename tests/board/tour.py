"""The pictures of docs/board.md, taken of a home that has run.

python -m tests.board.tour runs docs/board
"""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path
from typing import Any

from star.ledger.store import open_ledger
from star.rundir import Home
from tests.board.conftest import CHROMIUM, FLAGS
from tests.board.server import TOKEN, BoardServer

WIDE, SMALL = {"width": 1180, "height": 760}, {"width": 390, "height": 844}
TALLEST = 1500
"""Pixels of a picture: what is below is left out."""


def views(home: Path) -> dict[str, str]:
    """Picture -> address."""
    ledger = open_ledger(Home(home))
    rows = ledger.runs.experiments("table4")
    run = next(row for row in rows if row.row == "mask_ratio=0.25").run
    stages = ledger.runs.of([run])[run].stages
    others = [row.run for row in rows if row.run != run]
    found = {
        "overview": "/",
        "experiment": "/experiments/table4/fashion",
        "cell": "/experiments/table4/fashion/cell?row=mask_ratio%3D0.25&column=FD",
        "run": f"/runs/{run}",
        "job": f"/jobs/{stages['train']}",
        "compare": f"/compare?run={run}&run={others[0]}&run={others[-1]}",
        "queue": "/queue",
        "failures": "/failures",
        "gallery": "/gallery?experiment=/experiments/table4/fashion&class=1",
        "claims": "/claims",
    }
    studies = sorted({row.name for row in ledger.runs.experiments() if row.row.startswith("trial ")})
    return found | ({"search": f"/searches/{studies[0]}/fashion"} if studies else {})


def picture(page: Any, home: Path, target: Path) -> None:
    """What the page shows, in 256 colours."""
    from PIL import Image

    page.wait_for_timeout(4000)
    # where the home lies on this machine is nobody's business
    page.evaluate(
        "document.querySelectorAll('footer small, main p code').forEach((one) => {"
        f" one.innerHTML = one.innerHTML.replaceAll({json.dumps(str(home.resolve().parent))}, '~/star'); }})"
    )
    page.evaluate("document.querySelectorAll('img[loading]').forEach((one) => { one.loading = 'eager'; })")
    page.wait_for_timeout(2500)
    height = min(TALLEST, page.evaluate("document.documentElement.scrollHeight"))
    page.set_viewport_size({"width": page.viewport_size["width"], "height": max(500, height)})
    page.wait_for_timeout(1500)
    image = Image.open(io.BytesIO(page.screenshot()))
    image.convert("RGB").quantize(256).save(target, optimize=True)


def main() -> None:
    """The command."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("home", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    server = BoardServer(options.home.resolve())
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            for name, path in views(options.home).items():
                page = browser.new_page(base_url=server.url, viewport=WIDE)
                page.goto(path)
                picture(page, options.home, options.out / f"{name}.png")
                page.close()
            dark = browser.new_page(base_url=server.url, viewport=WIDE, color_scheme="dark")
            dark.goto(views(options.home)["run"])
            picture(dark, options.home, options.out / "dark.png")
            small = browser.new_page(base_url=server.url, viewport=SMALL)
            small.goto("/experiments/table4/fashion")
            picture(small, options.home, options.out / "small.png")
            ask = browser.new_page(base_url=server.url, viewport=WIDE)
            ask.goto("/login")
            ask.fill("#token", TOKEN)
            ask.get_by_role("button", name="Sign in").click()
            run = views(options.home)["run"].rsplit("/", 1)[1]
            ask.goto(f"/ask/rerun?key={run}")
            picture(ask, options.home, options.out / "ask.png")
            browser.close()
    finally:
        server.stop()


if __name__ == "__main__":
    main()
