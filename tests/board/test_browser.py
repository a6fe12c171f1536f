"""The board in a real browser: every page opened and clicked through, live, by keyboard, in both themes and on a small screen."""

from __future__ import annotations

import csv
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from star.ledger.states import CANCELLED, FAILED, QUEUED, RUNNING
from star.ledger.store import Ledger, open_ledger
from star.rundir import Home
from tests.board.conftest import BAD
from tests.board.server import TOKEN, BoardServer
from tests.helpers import star_exp
from tests.services import until

SMALL = {"width": 390, "height": 844}


@pytest.fixture
def ledger(shown: Path) -> Ledger:
    return open_ledger(Home(shown))


def noted(trouble: list[str], message: Any) -> None:
    """Keep a message of the console that should not be."""
    if message.type in ("error", "warning") and not EXPECTED.search(message.text):
        trouble.append(message.text)


@pytest.fixture
def page(chromium: Any, board: BoardServer) -> Iterator[Any]:
    """A page that notes whatever should not be: a message in the console, a request to another host."""
    context = chromium.new_context(base_url=board.url, timezone_id="Asia/Tokyo", locale="en-GB")
    found = context.new_page()
    trouble: list[str] = []
    found.on("console", lambda one: noted(trouble, one))
    found.on("pageerror", lambda error: trouble.append(str(error)))
    found.on("request", lambda one: trouble.append(one.url) if not one.url.startswith(board.url) else None)
    yield found
    context.close()
    assert not trouble


EXPECTED = re.compile(r"the server responded with a status of (403|404)")
"""What a browser notes when a page is asked for that is not there, or a wrong token is given, as some tests do."""


def wait(page: Any, expression: str) -> None:
    """Until an expression holds; the page's own policy forbids what Playwright would do for it."""
    until_on(page, lambda: bool(page.evaluate(expression)))


def pages(ledger: Ledger) -> list[str]:
    """Every kind of page."""
    rows = ledger.runs.experiments("tiny")
    runs = [row.run for row in rows]
    stages = ledger.runs.of(runs)[runs[0]].stages
    bad = ledger.jobs.of_state(FAILED)[0]
    cell = "/experiments/tiny/tiny/cell?row=mask_ratio%3D0.25&column=FD"
    return [
        *("/", "/runs", "/queue", "/failures", "/searches", "/gallery?experiment=/experiments/tiny/tiny", "/claims"),
        *("/experiments/tiny/tiny", f"/experiments/{BAD}/tiny", cell, "/start", "/login", "/searches/look/tiny"),
        *(f"/runs/{runs[0]}", f"/compare?run={runs[0]}&run={runs[1]}", f"/jobs/{stages['train']}", f"/jobs/{bad.key}"),
        *(f"/ask/retry?key={bad.key}", "/no/such/page"),
    ]


def settle(page: Any) -> None:
    """Wait until nothing on the page says that it is being read."""
    wait(page, "!document.querySelector('.loading') && !document.querySelector('.htmx-request')")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_page_is_in_order_for_everybody(chromium: Any, board: BoardServer, ledger: Ledger, theme: str) -> None:
    """No violation that axe knows of, nothing in the console, nothing of another host, no side scrolling at 390 px."""
    from axe_playwright_python.sync_playwright import Axe

    context = chromium.new_context(base_url=board.url, color_scheme=theme, viewport=SMALL)
    page, trouble = context.new_page(), []
    page.on("console", lambda one: noted(trouble, one))
    page.on("pageerror", lambda error: trouble.append(f"{page.url}: {error}"))
    page.on("request", lambda one: trouble.append(one.url) if not one.url.startswith(board.url) else None)
    axe = Axe()
    for path in pages(ledger):
        answer = page.goto(path)
        settle(page)
        assert answer.status == (404 if path == "/no/such/page" else 200), path
        found = axe.run(page)
        assert found.violations_count == 0, f"{path}\n{found.generate_report()}"
        assert page.evaluate("document.documentElement.scrollWidth") <= SMALL["width"], path
    context.close()
    assert not trouble


def test_a_cell_opens_in_three_clicks(page: Any, shown: Path, ledger: Ledger) -> None:
    """From the experiment to a cell's seeds, run, job, log; the numbers are the report's and the ledger's."""
    report = shown / "reports" / "tiny" / "tiny" / "table.csv"
    with report.open() as file:
        rows = list(csv.DictReader(file))
    page.goto("/")
    page.get_by_role("link", name="tiny", exact=True).first.click()
    page.wait_for_selector("table.results tbody tr")
    settle(page)
    table = page.locator("table.results tbody tr")
    assert table.count() == 2
    for row, line in zip(rows, table.all(), strict=True):
        cells = line.locator("th, td").all_inner_texts()
        assert cells[0] == row["Mask ratio"] and cells[1] == f"{float(row['FD']):.2f}"
        assert cells[2] == {"0.25": "26.58", "0.5": ""}[row["Mask ratio"]]
        assert cells[3] == f"{float(row['Probe %']):.2f}"
    page.get_by_role("link", name=f"{float(rows[0]['FD']):.2f}").click()
    text = page.inner_text("main")
    assert "26.58" in text and "score/{extractor}/frechet_distance" in text
    run = ledger.runs.experiments("tiny")[0].run
    key = ledger.runs.of([run])[run].stages["score"]
    assert run[:8] in text and key[:8] in text and page.locator("img.samples").count() == 1
    wait(page, "document.querySelector('img.samples').naturalWidth > 100")
    page.get_by_role("link", name=f"{key[:8]} score").click()
    page.wait_for_selector("pre.log")
    wait(page, "document.querySelector('pre.log').textContent.includes('done in')")
    assert "== attempt 1" in page.inner_text("pre.log")
    assert page.locator("table").first.locator("tbody tr").count() == len(ledger.jobs.history(key))


def test_the_overview_counts_what_the_ledger_counts(page: Any, ledger: Ledger) -> None:
    page.goto("/")
    states = ledger.jobs.counts()
    for state in ("done", FAILED, QUEUED):
        count = sum(number for (_, found), number in states.items() if found == state)
        if count:
            assert f"{count} {state}" in " ".join(page.inner_text(".lead").split())
    row = page.locator("tr", has=page.get_by_role("link", name="tiny", exact=True))
    assert "2 of 2" in row.inner_text()


def test_curves_are_drawn_and_compared(page: Any, ledger: Ledger) -> None:
    runs = [row.run for row in ledger.runs.experiments("tiny")]
    page.goto(f"/compare?run={runs[0]}&run={runs[1]}")
    page.wait_for_selector("#c-train-loss canvas")
    assert page.locator("#c-train-loss .u-series").count() == 3  # the step, and two runs
    # what differs is the mask alone
    spec = page.locator("section, main").last.locator("table", has_text="selfguided.mask_ratio")
    assert "0.25" in spec.inner_text() and "0.5" in spec.inner_text() and "optim.lr" not in spec.inner_text()
    data = page.request.get(f"/curves.json?run={runs[0]}&metric=train/loss").json()
    folder = Home(Path(page.inner_text("footer").split(" ·")[0].strip()))
    lines = folder.job("train", ledger.runs.of(runs)[runs[0]].stages["train"]).metrics.read_text().splitlines()
    assert data["x"][-1] == max(int(re.search(r'"step": (\d+)', line)[1]) for line in lines)  # type: ignore[index]


def test_lists_are_found_sorted_and_linked(page: Any, board: BoardServer, ledger: Ledger) -> None:
    """The address carries what is seen: a colleague who opens it sees the same."""
    page.goto("/runs")
    before = page.locator("form.runs tbody tr").count()
    assert before == 3
    page.fill("#q", "0.25")
    wait(page, "document.querySelectorAll('form.runs tbody tr').length == 1")
    assert "q=0.25" in page.url
    page.fill("#q", "")
    wait(page, "document.querySelectorAll('form.runs tbody tr').length == 3")
    page.select_option("#state", "failed")
    wait(page, "document.querySelectorAll('form.runs tbody tr').length == 1")
    address = page.url
    page.goto("/runs?sort=probe/accuracy")
    values = [float(one) for one in page.locator("form.runs tbody tr td:nth-child(10)").all_inner_texts() if one != "–"]
    assert len(values) == 2 and values == sorted(values)
    other = page.context.browser.new_page()
    other.goto(address)
    assert other.locator("form.runs tbody tr").count() == 1 and "failed" in other.inner_text("form.runs")
    other.close()
    # a key, or its beginning, leads to its page; a word to the list
    run = ledger.runs.experiments("tiny")[0].run
    page.fill("#find", run[:7])
    page.press("#find", "Enter")
    page.wait_for_url(f"{board.url}/runs/{run}")


def test_times_are_the_readers(page: Any, ledger: Ledger) -> None:
    run = ledger.runs.experiments("tiny")[0].run
    key = ledger.runs.of([run])[run].stages["train"]
    page.goto(f"/jobs/{key}")
    job = ledger.jobs.of([key])[key]
    hours = time.strftime("%H:%M", time.gmtime((job.started or 0) + 9 * 3600))  # Tokyo
    wait(page, f"document.querySelector('dd time').textContent.includes('{hours}')")
    wait_for_stream(page)
    page.evaluate(
        "new MutationObserver((all) => { window.touched = all.length; })"
        ".observe(document.querySelector('dd time'), {childList: true, characterData: true, subtree: true})"
    )
    refreshed(page)
    assert not page.evaluate("window.touched"), "a refresh does not let times flicker"


def test_the_theme_stays(page: Any) -> None:
    page.goto("/")
    colour = "getComputedStyle(document.documentElement).backgroundColor"
    light = page.evaluate(colour)
    page.click("#theme")
    dark = page.evaluate(colour)
    page.goto("/queue")
    assert light != dark and page.evaluate(colour) == dark


def test_the_keyboard_reaches_everything(page: Any) -> None:
    page.goto("/")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "To the content"
    page.keyboard.press("Enter")
    names = []
    for _ in range(12):
        page.keyboard.press("Tab")
        names.append(page.evaluate("document.activeElement.textContent.trim() || document.activeElement.id"))
    assert "tiny" in names


def change(page: Any, verb: str, key: str) -> str:
    """Click a verb on a job's page, and yes to the question; returns what the board says then."""
    page.goto(f"/jobs/{key}")
    page.get_by_role("link", name=verb.capitalize(), exact=True).click()
    assert page.inner_text("h1").endswith("?") and key[:8] in page.inner_text("main")
    page.get_by_role("button", name=f"Yes, {verb}").click()
    page.wait_for_selector("pre.said")
    return str(page.inner_text("main"))


def test_jobs_are_retried_and_cancelled_from_the_page(page: Any, ledger: Ledger) -> None:
    """With the token, after a question, by the command line's own rules; without it there is no button."""
    key = ledger.jobs.of_state(FAILED)[0].key
    page.goto(f"/jobs/{key}")
    assert page.get_by_role("link", name="Retry", exact=True).count() == 0
    page.get_by_role("link", name="Sign in").click()
    page.fill("#token", "not the token at all")
    page.get_by_role("button", name="Sign in").click()
    assert "not the board's token" in page.inner_text("main")
    page.fill("#token", TOKEN)
    page.get_by_role("button", name="Sign in").click()
    assert page.url.endswith(f"/jobs/{key}")  # back to where one was
    said = change(page, "retry", key)
    assert f"queued   train {key}" in said and "no scheduler is at work" in said
    assert ledger.jobs.of([key])[key].state == QUEUED and ledger.jobs.history(key)[-1].reason.startswith(
        "asked for again"
    )
    said = change(page, "cancel", key)
    assert "cancelled train" in said and ledger.jobs.of([key])[key].state == CANCELLED
    page.goto("/")
    page.get_by_role("button", name="Sign out").click()
    page.goto(f"/jobs/{key}")
    assert page.get_by_role("link", name="Retry", exact=True).count() == 0


def test_what_changes_appears_by_itself(page: Any, shown: Path, ledger: Ledger) -> None:
    """Without a reload; how soon, the benchmark measures."""
    job = next(job for job in ledger.jobs.of().values() if job.state in (FAILED, CANCELLED))
    page.goto(f"/jobs/{job.key}")
    page.evaluate("window.mark = 'not reloaded'")
    wait(page, "document.querySelector('h1 .state')")
    page.locator("footer").wait_for()
    wait_for_stream(page)
    assert star_exp("retry", job.key, home=shown).returncode == 0
    wait(page, "document.querySelector('h1 .state').textContent == 'queued'")
    assert page.evaluate("window.mark") == "not reloaded"
    assert star_exp("cancel", job.key, home=shown).returncode == 0
    wait(page, "document.querySelector('h1 .state').textContent == 'cancelled'")


def wait_for_stream(page: Any) -> None:
    """Until the page hears of changes."""
    wait(page, "live.source && live.source.readyState == 1")


def refreshed(page: Any) -> None:
    """Have the page fetched and put in place again, as after a change; returns when that is done."""
    page.evaluate(
        "new Promise((done) => { document.addEventListener('htmx:afterSettle', done, {once: true}); digests.clear(); changed(); })"
        ".then(() => true)"
    )


def test_what_the_reader_opened_and_typed_stays(page: Any, ledger: Ledger) -> None:
    run = ledger.runs.experiments("tiny")[0].run
    page.goto(f"/runs/{run}")
    page.locator("summary", has_text="Resolved spec").click()
    page.fill("#find", "half a wo")
    wait_for_stream(page)
    refreshed(page)
    assert page.locator("details[open]").count() == 1 and page.input_value("#find") == "half a wo"


def test_a_tick_is_a_runs_and_not_a_places(page: Any, ledger: Ledger) -> None:
    """Above it rows come and go as a list is sorted, filtered, and lived with."""
    first, second = (row.run for row in ledger.runs.experiments("tiny"))
    page.goto("/experiments/tiny/tiny")
    page.check(f"input[value='{first}']")
    page.fill("#q", "0.5")
    wait(page, "document.querySelectorAll('form.runs tbody tr').length == 1")
    assert not page.is_checked(f"input[value='{second}']")
    page.check(f"input[value='{second}']")
    page.fill("#q", "")
    wait(page, "document.querySelectorAll('form.runs tbody tr').length == 2")
    assert page.is_checked(f"input[value='{second}']") and not page.is_checked(f"input[value='{first}']")


def test_a_label_without_an_end_fits_a_small_screen(chromium: Any, shown: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(shown, home, symlinks=True)
    text = (shown.parent / "experiments" / "tiny.yaml").read_text().replace("experiment: tiny", "experiment: long")
    rows = f"rows: [{{label: {'w' * 300}}}]"
    text = text.replace("axes:\n  selfguided.mask_ratio: [0.25, 0.5]", rows).replace(
        "match: {mask_ratio: selfguided.mask_ratio}", ""
    )
    (shown.parent / "experiments" / "long.yaml").write_text(
        text.replace("published: fid", "").replace("published: table4", "")
    )
    done = star_exp("run", shown.parent / "experiments" / "long.yaml", "--plain", home=home, cwd=shown.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    run = open_ledger(Home(home)).runs.experiments("long")[0].run
    server = BoardServer(home)
    try:
        page = chromium.new_page(base_url=server.url, viewport=SMALL)
        for path in (
            f"/runs/{run}",
            f"/compare?run={run}",
            f"/gallery?run={run}",
            "/",
            "/experiments/long/tiny",
            "/claims",
        ):
            page.goto(path)
            settle(page)
            assert page.evaluate("document.documentElement.scrollWidth") <= SMALL["width"], path
    finally:
        server.stop()


def test_a_board_that_is_gone_is_said_and_comes_back(chromium: Any, shown: Path) -> None:
    server = BoardServer(shown)
    page = chromium.new_page()
    page.goto(server.url)
    wait_for_stream(page)
    server.stop()
    page.wait_for_selector("#away:not([hidden])")
    again = BoardServer(shown, "--port", str(server.port))
    page.wait_for_selector("#away", state="hidden")
    assert "Overview" in page.inner_text("h1")
    page.close()
    again.stop()


def test_a_run_is_started_from_the_page_and_watched(page: Any, shown: Path, ledger: Ledger) -> None:
    """One more experiment, begun by a click, seen to its end on the same page."""
    file = shown.parent / "experiments" / "clicked.yaml"
    text = (shown.parent / "experiments" / "tiny.yaml").read_text().replace("experiment: tiny", "experiment: clicked")
    file.write_text(text.replace("[0.25, 0.5]", "[0.3]").replace("targets", "#"))
    page.goto("/login?back=/start")
    page.fill("#token", TOKEN)
    page.get_by_role("button", name="Sign in").click()
    page.locator("tr", has_text="clicked.yaml").get_by_role("link", name="Run").click()
    page.get_by_role("button", name="Yes, run").click()
    page.wait_for_selector("pre.said")
    assert "detached: process" in page.inner_text("main")
    until(lambda: bool(ledger.runs.experiments("clicked")), "the experiment is entered")
    page.goto("/experiments/clicked/tiny")
    page.evaluate("window.mark = 'not reloaded'")
    seen: set[str] = set()

    def is_done() -> bool:
        seen.add(page.locator("form.runs tbody .state").inner_text())
        return "done" in seen

    until_on(page, is_done)
    assert RUNNING in seen and page.evaluate("window.mark") == "not reloaded"
    settle(page)
    wait(page, "!document.querySelector('table.results tbody tr').textContent.includes('(')")
    until(lambda: not ledger.schedulers.all(), "its scheduler has left")


def until_on(page: Any, condition: Callable[[], bool], timeout: float = 200) -> None:
    """Wait while the page's own events go on."""
    deadline = time.time() + timeout
    while not condition():
        assert time.time() < deadline, page.inner_text("main")
        page.wait_for_timeout(100)
