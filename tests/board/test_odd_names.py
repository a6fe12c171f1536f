"""Names, labels, errors and logs that hold HTML, scripts, control characters, or no end: shown as the text that they are."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from star.ledger.states import Allocation, RunRow
from star.ledger.store import open_ledger
from star.rundir import Home, JobDir
from star.scheduler.plan import make_plan
from star.scheduler.registration import register
from star.spec.load import load
from tests.board.server import BoardServer
from tests.helpers import DATA, ROOT

EVIL = "<script>alert(1)</script>\"'&<img src=x onerror=alert(2)>{{ 7*7 }}"
FILE = f"""
experiment: odd
title: {json.dumps(EVIL)}
profile: tiny
rows:
  - label: {json.dumps(EVIL)}
    group: {json.dumps(EVIL)}
    cells: {{note: {json.dumps(EVIL)}}}
  - label: "../../etc/passwd"
    spec: {{optim: {{lr: 0.002}}}}
table:
  caption: {json.dumps(EVIL)}
  note: {json.dumps(EVIL)}
  columns:
    - {{title: Row, label: true}}
    - {{title: {json.dumps(EVIL)}, metric: probe/accuracy}}
    - {{title: Note, cell: note}}
claims:
  - id: odd
    text: {json.dumps(EVIL)}
    that: [{{kind: greater, metric: probe/accuracy, row: "../../etc/passwd", than: [{json.dumps(EVIL)}]}}]
"""


class Odd:
    """A home full of odd names: its board, its failed training, and that job's folder."""

    def __init__(self, path: Path) -> None:
        (path / "data").mkdir(parents=True)
        (path / "data" / "fashion-mnist").symlink_to(DATA)
        (path / "profiles").symlink_to(ROOT / "tests" / "profiles")
        (path / "odd.yaml").write_text(FILE)
        self.home = Home(path)
        self.ledger = open_ledger(self.home)
        plan = make_plan(load(path / "odd.yaml"), self.home, self.ledger)
        register(plan, self.home, self.ledger, lambda text: None)
        key = plan.runs[0].stages["train"]
        self.run = plan.runs[0].key
        mine = self.ledger.jobs.claim(self.ledger.jobs.of([key])[key], "nobody", EVIL, Allocation(EVIL, 1))
        assert mine is not None
        self.ledger.jobs.move(mine, "failed", "error", EVIL, error=f"{EVIL}\n{EVIL}", error_class=EVIL)
        self.key, self.folder = key, self.home.job("train", key)
        self.folder.path.mkdir(parents=True)
        # a run that another program named
        self.ledger.runs.add([RunRow("f" * 16, EVIL, 0, {"data": {EVIL: EVIL}}, {"train": key}, EVIL, 0.0)])
        self.ledger.runs.set_experiment(EVIL, EVIL, ["train"], [(EVIL, 0, "f" * 16)])
        self.board = BoardServer(path)


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Odd]:
    found = Odd(tmp_path_factory.mktemp("odd") / "home")
    yield found
    found.board.stop()


def addresses(odd: Odd) -> list[str]:
    from star_board.board import address

    name = ("experiments", EVIL, EVIL)
    return [
        *("/", "/runs", "/queue", "/failures", "/claims", "/gallery", "/searches", "/start"),
        *(address(*name), address(*name, "results"), address(*name, "claims")),
        *("/experiments/odd/tiny", "/experiments/odd/tiny/results", "/experiments/odd/tiny/claims"),
        address("experiments", "odd", "tiny", "cell", row=EVIL, column=EVIL),
        *(f"/jobs/{odd.key}", f"/runs/{odd.run}", f"/runs/{'f' * 16}", f"/compare?run={odd.run}&run={'f' * 16}"),
        *(
            address("runs", q=EVIL),
            address("failures", kind=EVIL),
            address("gallery", experiment=address("experiments", EVIL, EVIL)),
        ),
        *(address("login", back="/" + EVIL), address("ask", "retry", key=odd.key, back="/" + EVIL)),
        *(address("jobs", EVIL), address("ask", EVIL), address("searches", EVIL, EVIL), "/nothing/" + "%3Cscript%3E"),
    ]


class _Parts(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "script" and not (values.get("src") or "").startswith("/static/"):
            self.found.append(f"a script {values}")
        if tag == "img" and not (values.get("src") or "").startswith("/"):
            self.found.append(f"a picture {values}")
        self.found += [f"{tag} {name}" for name in values if name.startswith("on") or name == "style"]
        self.found += [f"{tag} {value}" for name, value in attrs if name == "href" and (value or "").startswith("java")]


def foreign_parts(text: str) -> list[str]:
    """What of a page a browser would run that is none of the board's."""
    parser = _Parts()
    parser.feed(text)
    return parser.found


def test_names_are_text_on_every_page(odd: Odd) -> None:
    cookie = odd.board.sign_in()
    seen = 0
    for path in addresses(odd):
        for headers in ({}, cookie):
            answer = odd.board.ask(path, headers=headers)
            assert answer.status in (200, 404), (path, answer.text)
            assert not foreign_parts(answer.text), path
            seen += "&lt;script&gt;alert(1)&lt;/script&gt;" in answer.text
    assert seen > 20, "the names are there, as text"


def test_names_run_nothing_in_a_browser(odd: Odd, chromium: Any) -> None:
    page = chromium.new_page()
    trouble: list[str] = []
    page.on("dialog", lambda dialog: (trouble.append(dialog.message), dialog.dismiss()))
    page.on("pageerror", lambda error: trouble.append(str(error)))
    for path in addresses(odd):
        page.goto(odd.board.url + path)
        page.wait_for_load_state("load")
    page.goto(f"{odd.board.url}/jobs/{odd.key}")
    assert EVIL.split("{")[0] in page.inner_text("body")
    assert not trouble
    page.close()


def read_log(odd: Odd, start: int | None = None) -> dict[str, Any]:
    answer = odd.board.ask(f"/jobs/{odd.key}/log" + ("" if start is None else f"?from={start}"))
    assert answer.status == 200
    found: dict[str, Any] = answer.json
    return found


def test_a_log_is_read_from_its_end_and_then_followed(odd: Odd) -> None:
    odd.folder.log.write_text("one\ntwo\n")
    first = read_log(odd)
    assert first == {"text": "one\ntwo\n", "next": 8, "skipped": 0, "more": False}
    with odd.folder.log.open("a") as file:
        file.write("three\n")
    assert read_log(odd, 8) == {"text": "three\n", "next": 14, "skipped": 0, "more": False}
    odd.folder.log.write_text("again\n")  # put aside and begun again
    assert read_log(odd, 14)["text"] == "again\n"


def test_an_endless_log_is_not_sent_whole(odd: Odd) -> None:
    line = b"x" * 99 + b"\n"
    with odd.folder.log.open("wb") as file:
        for _ in range(200):
            file.write(line * 1000)  # 20 MB
    sent, at = 0, read_log(odd)
    for _ in range(10):
        sent += len(at["text"])
        if not at["more"]:
            break
        at = read_log(odd, at["next"])
    assert not at["more"] and sent < 300_000
    behind = read_log(odd, 0)  # a reader who fell behind is told what was left out, and gets the end
    assert behind["skipped"] > 18_000_000 and len(behind["text"]) < 200_000
    odd.folder.log.write_bytes(b"y" * 1_000_000)  # one line without an end
    found = read_log(odd, 0)
    assert 0 < len(found["text"]) <= 131_072 and found["next"] > 0
    with odd.folder.log.open("wb") as file:
        file.truncate(1 << 40)  # a hole of a terabyte
    assert len(read_log(odd)["text"]) <= 131_072


def test_a_binary_log_is_shown_as_far_as_it_can_be(odd: Odd) -> None:
    content = bytes(range(256)) * 40 + "ü→\x1b[31mred\x1b[0m\r\nprogress 1\rprogress 2\n".encode()
    odd.folder.log.write_bytes(content)
    text = read_log(odd)["text"]
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", text)
    assert "ü→" in text and "red" in text and "progress 1\nprogress 2\n" in text
    whole = odd.board.ask(f"/jobs/{odd.key}/log.txt")
    assert whole.body == content and whole.headers["content-type"].startswith("text/plain")
    assert "attachment" in whole.headers["content-disposition"]


def test_a_log_that_is_no_file(odd: Odd) -> None:
    odd.folder.log.unlink(missing_ok=True)
    assert read_log(odd)["text"] == ""
    os.mkfifo(odd.folder.log)
    try:
        assert read_log(odd)["text"] == ""  # and does not wait for a writer
    finally:
        odd.folder.log.unlink()
    odd.folder.log.symlink_to("/etc/passwd")
    try:
        assert "root:" not in read_log(odd)["text"]
        assert odd.board.ask(f"/jobs/{odd.key}/log.txt").status == 404
    finally:
        odd.folder.log.unlink()


def test_damaged_files_are_no_fault_of_the_board(odd: Odd) -> None:
    folder: JobDir = odd.folder
    folder.metrics.write_bytes(b'{"time": 1, "step": 1, "metrics": {"loss": 2.0}}\n{"time": 1, "st\xff\n')
    folder.result.write_text("[1, 2")
    folder.progress.write_text("null")
    try:
        answer = odd.board.ask(f"/curves.json?run={odd.run}&metric=train/loss")
        assert answer.json["series"][0]["y"] == [2.0]
        for path in (f"/jobs/{odd.key}", f"/runs/{odd.run}", "/runs"):
            assert odd.board.ask(path).status == 200
        folder.metrics.write_bytes(b'{"time": 1, "step": 1, "metrics": {"loss": 2.0}}\n[]\n')
        folder.progress.write_text('["a"]')
        folder.job.write_text('{"stage": "train", "inputs": ["x"]}')
        for path in (f"/jobs/{odd.key}", f"/runs/{odd.run}", f"/curves.json?run={odd.run}&metric=train/loss"):
            assert odd.board.ask(path).status == 200
        folder.job.unlink()
        folder.metrics.write_bytes(b'{"time": 1, "step": "one", "metrics": {"loss": 2.0}}\n')
        assert odd.board.ask(f"/curves.json?run={odd.run}&metric=train/loss").status == 200
        folder.metrics.unlink()  # computed again
        folder.metrics.write_text(
            '{"time": 1, "step": 1, "metrics": {"loss": NaN}}\n{"time": 1, "step": 2, "metrics": {"loss": 1}}\n'
        )
        found = odd.board.ask(f"/curves.json?run={odd.run}&metric=train/loss").json
        assert found["x"] == [1, 2] and found["series"][0]["y"] == [None, 1]
    finally:
        for file in (folder.metrics, folder.result, folder.progress):
            file.unlink()
