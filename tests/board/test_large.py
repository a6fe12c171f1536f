"""The board on a home of a thousand runs, a hundred jobs alive: small pages, whole counts, nothing sent twice."""

from __future__ import annotations

import gzip
import re
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from star.ledger.states import FAILED, QUEUED, RUNNING
from star.ledger.store import Ledger, open_ledger
from star.rundir import Home
from tests import large_home
from tests.board.server import BoardServer
from tests.services import until

RUNS, LIVE = 1_000, 100
WIRE = 200_000
"""Bytes that a first visit may cost, all files together."""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("large") / "home"
    large_home.make(path, RUNS, LIVE)
    return path


@pytest.fixture(scope="module")
def board(large: Path) -> Iterator[BoardServer]:
    server = BoardServer(large)
    yield server
    server.stop()


@pytest.fixture
def ledger(large: Path) -> Ledger:
    return open_ledger(Home(large))


def test_pages_are_small_and_whole(board: BoardServer, ledger: Ledger) -> None:
    states = Counter(place.state for place in ledger.jobs.places().values())
    text = board.ask("/").text
    for state, count in states.items():
        assert re.search(rf"{count:,} <span class=\"state s-{state}\">", text), state
    assert "Experiments <small>2</small>" in text
    queue = board.ask("/queue").text
    assert f"Running <small>{LIVE}</small>" in queue and f"Waiting <small>{states[QUEUED]:,}</small>" in queue
    seen: list[str] = []
    for page in range(1, 11):
        text = board.ask(f"/runs?page={page}").text
        found = re.findall(r'name="run" value="([0-9a-f]{16})"', text)
        assert len(found) == 100
        seen += found
    assert len(set(seen)) == RUNS
    for path in (
        "/",
        "/runs",
        "/queue",
        "/failures",
        "/experiments/sweep-00/tiny",
        "/experiments/sweep-01/tiny/results",
    ):
        answer = board.ask(path, headers={"Accept-Encoding": "gzip"})
        assert answer.headers["content-encoding"] == "gzip" and len(answer.body) < 30_000, path
        assert b"</main>" in gzip.decompress(answer.body) or path.endswith("results")


def test_a_first_visit_costs_little(board: BoardServer, chromium: Any) -> None:
    """All that a browser loads for the first page, and for a run's with its curves, as it comes over the wire."""
    run = re.findall(r'name="run" value="([0-9a-f]{16})"', board.ask("/runs").text)[0]
    for path in ("/", f"/runs/{run}"):
        page = chromium.new_page()
        page.goto(board.url + path)
        page.wait_for_timeout(500)
        size = page.evaluate(
            "[...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')]"
            ".reduce((sum, one) => sum + one.transferSize, 0)"
        )
        assert 20_000 < size < WIRE, path
        page.close()


def test_what_a_viewer_has_is_not_sent_again(board: BoardServer, ledger: Ledger) -> None:
    first = board.ask("/failures")
    asked = lambda: board.ask("/failures", headers={"X-Have": first.headers["x-digest"]})  # noqa: E731
    again = asked()
    assert again.status == 204 and again.body == b""
    job = ledger.jobs.of_state(FAILED)[0]
    assert ledger.jobs.move(job, QUEUED, "again", "asked for again")
    until(lambda: asked().status == 200, "the board looks again")
    news = asked()
    assert job.key not in news.text and job.key in first.text


def test_many_viewers_are_told_by_one_look(board: BoardServer, ledger: Ledger) -> None:
    """Each of twenty streams hears of a change, and none twice of the same version."""
    import http.client

    streams = []
    for _ in range(20):
        connection = http.client.HTTPConnection("127.0.0.1", board.port, timeout=200)
        connection.request("GET", "/events")
        response = connection.getresponse()
        assert response.status == 200 and response.headers["content-type"].startswith("text/event-stream")
        streams.append((connection, response, [_event(response)]))
    job = ledger.jobs.of_state(RUNNING)[0]
    assert ledger.jobs.move(job, FAILED, "nan", "so", error="loss is nan", error_class="DivergedError")
    until(lambda: job.key in board.ask("/failures").text, "the page shows it")

    def listen(response: Any, seen: list[str]) -> None:
        while int(seen[-1]) < version:
            seen.append(_event(response))

    version = 1 + max(int(seen[-1]) for _, _, seen in streams)
    threads = [threading.Thread(target=listen, args=(response, seen)) for _, response, seen in streams]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(15)
    for connection, _, seen in streams:
        assert int(seen[-1]) >= version and len(set(seen)) == len(seen)
        connection.close()


def _event(response: Any) -> str:
    while True:
        line = response.readline().decode()
        assert line, "the stream has ended"
        if line.startswith("data: "):
            return str(line[6:].strip())


def test_an_experiment_of_many_rows_in_a_browser(board: BoardServer, chromium: Any) -> None:
    page = chromium.new_page()
    trouble: list[str] = []
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.goto(board.url)
    page.get_by_role("link", name="sweep-01").first.click()
    page.wait_for_selector("table.results tbody tr")
    assert page.locator("table.results tbody tr").count() == 100
    page.get_by_role("link", name="more →").click()
    page.wait_for_selector(".pager")
    assert "page 2 of 5" in page.inner_text(".pager")
    page.goto(board.url + "/queue")
    assert page.locator("table[aria-label], div[aria-label='Running'] tbody tr").count() >= LIVE - 1
    page.close()
    assert not trouble


def test_status_and_board_agree(large: Path) -> None:
    from star.cli.status import overview
    from star_board.model import Model

    home = Home(large)
    found = open_ledger(home)
    model = Model(home, found)
    model.refresh()
    printed = Counter(row["state"] for row in overview(home, found, queued=False)["rows"])
    assert printed == sum((group.states for group in model.groups.values()), Counter())
