"""What pages say on days when it would be easy to mislead: lists that shrink, names at two profiles, runs of one's own stages."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from sqlalchemy import text

from star.ledger.states import DONE, FAILED, Allocation, SchedulerInfo
from star.ledger.store import Ledger
from star.scheduler.plan import Plan, make_plan
from star.scheduler.records import record_path
from star.scheduler.registration import register
from star.spec.load import load
from star.words import number
from star_board.board import address, ident
from star_board.curves import numbers
from star_board.model import Model, _numbers_of
from star_board.settings import read_token
from star_board.views.experiments import _place
from star_board.views.jobs import _begun
from star_board.views.overview import describe
from star_board.views.runs import MOST
from tests.board.server import TOKEN, BoardServer
from tests.board.test_model import planned
from tests.helpers import ROOT

ODD = "50% #x?y z"
"""A profile's name, which is a file's and may hold what means something in an address."""
OWN = """
experiment: own
title: Own
rows:
  - {label: trial run of A}
  - {label: B, spec: {fit: {lr: 0.5}}}
stages:
  fit:
    command: python fit.py {lr} {out}
    parameters: {lr: 0.1}
    results: [score]
    attach: [plots/loss.png]
targets: [fit]
table:
  caption: Own
  columns: [{title: Score, metric: fit/score}]
"""


class Pages:
    """A home with an experiment at two profiles and one of a script, and its board."""

    def __init__(self, path: Path) -> None:
        self.home, self.ledger, self.plan = planned(path)
        profile = (ROOT / "tests" / "profiles" / "tiny.yaml").read_text()
        (path / "profiles").unlink()
        (path / "profiles").mkdir()
        for name in ("tiny", ODD):
            (path / "profiles" / f"{name}.yaml").write_text(profile)
        self.other = self._add(path / "many.yaml", ODD)
        (path / "own.yaml").write_text(OWN)
        (path / "fit.py").write_text("")
        self.own = self._add(path / "own.yaml", None)
        self.fit = self._end(
            self.own,
            0,
            "fit",
            {"score": 3.25, "train/acc": 0.98, "test/acc": 0.61, "much": 10**400, "word": "high", "gap": None},
        )
        self.board = BoardServer(path, "--experiments", str(path), cwd=path)

    def _add(self, file: Path, profile: str | None) -> Plan:
        plan = make_plan(load(file, profile=profile), self.home, self.ledger)
        register(plan, self.home, self.ledger, lambda said: None)
        return plan

    def _end(self, plan: Plan, run: int, stage: str, metrics: dict[str, object]) -> str:
        """Have a job of a run done, with these numbers; returns its key."""
        key = plan.runs[run].stages[stage]
        running = self.ledger.jobs.claim(self.ledger.jobs.of([key])[key], "me", "started", Allocation("here", 1))
        assert running and self.ledger.jobs.move(running, DONE, "finished", "so")
        folder = self.home.job(stage, key)
        (folder.out / "plots").mkdir(parents=True)
        (folder.out / "plots" / "loss.png").write_bytes(b"\x89PNG")
        spec = plan.runs[run].spec.model_dump(mode="json")
        folder.job.write_text(json.dumps({"stage": stage, "key": key, "spec": spec}))
        folder.result.write_text(json.dumps({"metrics": metrics, "provenance": [], "seconds": 1.0, "finished": 1.0}))
        return key


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    found = Pages(tmp_path_factory.mktemp("pages") / "home")
    yield found
    found.board.stop()


@pytest.mark.parametrize("path", ["/queue?page=3", "/runs?page=99", "/?page=5", "/experiments/many/tiny?page=2"])
def test_a_page_past_the_end_is_the_last(pages: Pages, path: str) -> None:
    """A list may shrink while somebody reads its last page."""
    page = pages.board.ask(path).text
    assert "Nothing waits" not in page and "No run fits" not in page and "No experiment has" not in page
    assert "mask_ratio=0.1" in page or ">many</a>" in page


def test_one_profiles_button_asks_about_that_profile(pages: Pages) -> None:
    signed = pages.board.sign_in()
    page = pages.board.ask(address("experiments", "many", ODD), headers=signed).text
    asked = re.search(r'href="(/ask/cancel[^"]+)"', page)
    assert asked
    question = pages.board.ask(asked[1].replace("&amp;", "&"), headers=signed).text
    mine = {key for run in pages.other.runs for key in run.stages.values()}
    named = set(re.findall(r'href="/jobs/([0-9a-f]{16})"', question))
    assert named and named <= mine and f"many@{ODD}" in question.replace("&#34;", '"')


def test_addresses_of_odd_profiles_are_addresses(pages: Pages) -> None:
    page = pages.board.ask(address("experiments", "many", ODD)).text
    addresses = re.findall(r'(?:href|hx-get|action)="([^"]*many/[^"]*)"', page)
    quoted = address("experiments", "many", ODD)
    assert len(addresses) > 5 and all(one.startswith((quoted, "/ask", "/login")) for one in addresses), addresses


def test_a_question_is_not_lost_by_signing_in(pages: Pages) -> None:
    key = pages.plan.runs[0].stages["train"]
    page = pages.board.ask(f"/ask/cancel?key={key}").text
    assert "nothing to cancel" not in page, "nobody looked yet"
    links = re.findall(r'href="(/login\?back=[^"]+)"', page)
    assert len(links) == 2  # in the text and above
    for link in links:
        login = pages.board.ask(link).text
        back = re.search(r'name="back" value="([^"]+)"', login)
        assert back and back[1].replace("&amp;", "&") == f"/ask/cancel?key={key}"


def test_an_own_experiment_is_shown_whole(pages: Pages) -> None:
    """A row whose label begins as a search's trials do is a row, and a script's results are columns."""
    own = address("experiments", "own", pages.own.experiment.profile)
    page = pages.board.ask(own).text
    assert "trials of a search" not in page and f"{own}/results" in page
    assert "sort=fit/score" in page and ">3.25<" in page and "val nll" not in page
    for name, value in (("train/acc", "0.98"), ("test/acc", "0.61")):  # not one column of two that end alike
        assert f"sort=fit/{name}" in page and f">{value}<" in page
    assert f"{own}/claims" in pages.board.ask("/claims").text
    values = pages.board.ask("/runs?sort=-fit/score").text
    assert values.index("trial run of A") < values.index("mask_ratio=0.1")


def test_files_in_folders_are_opened(pages: Pages) -> None:
    page = pages.board.ask(f"/jobs/{pages.fit}").text
    link = re.search(r'href="(/jobs/[^"]+loss.png)"', page)
    assert link and pages.board.ask(link[1]).body == b"\x89PNG"
    assert pages.board.ask(f"/jobs/{pages.fit}/files/plots/../../result.json").status == 404
    assert "1e+400" not in page and "1.000e+400" not in page and "high" not in page  # no numbers that a chart has


def test_more_runs_than_are_compared_are_told(pages: Pages) -> None:
    everything = [run.key for plan in (pages.plan, pages.other, pages.own) for run in plan.runs]
    keys = list(dict.fromkeys(everything)) + [f"{i:016x}" for i in range(MOST)]
    from star.ledger.states import RunRow

    pages.ledger.runs.add([RunRow(key, "x", 0, {}, {}, None, 0.0) for key in keys[-MOST:]])
    page = pages.board.ask("/compare?" + "&".join(f"run={key}" for key in keys)).text
    assert f"{MOST} of {len(keys)} chosen runs" in page


def test_a_chosen_experiment_counts_more_than_chosen_runs(pages: Pages) -> None:
    run = pages.own.runs[0].key
    page = pages.board.ask(address("gallery", run=run, experiment=address("experiments", "many", ODD))).text
    assert 'name="run"' not in page and f"selected>many at {ODD}" in page
    assert "None of these runs" in page
    assert f'name="run" value="{run}"' in pages.board.ask(f"/gallery?run={run}").text


@pytest.mark.parametrize("path", ["/login", "/do/cancel"])
def test_forms_of_strangers_are_refused_and_not_failed_on(pages: Pages, path: str) -> None:
    many = pages.board.ask(path, "POST", b"a=b&" * 1001, {"Origin": pages.board.url})
    odd = pages.board.ask(path, "POST", b"a=b", {"Origin": "http://["})
    assert (many.status, odd.status) == (413, 403)


def test_a_key_is_found_as_folders_are_named(pages: Pages) -> None:
    assert pages.board.ask(f"/find?q=fit-{pages.fit[:8]}").headers["location"] == f"/jobs/{pages.fit}"


def test_a_search_is_no_experiment_to_start(pages: Pages) -> None:
    (pages.home.path / "look.yaml").write_text("search: look\ntitle: a search\n")
    signed = pages.board.sign_in()
    answer = pages.board.ask("/ask/run?file=look.yaml", headers=signed)
    assert answer.status == 404 and "star-exp search" in answer.text


def test_texts_have_places_and_endless_numbers_are_no_points(pages: Pages) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        storage=f"sqlite:///{pages.home.studies}", study_name="two@tiny", directions=["minimize"] * 2
    )
    for first, kind in ((math.inf, "a"), (1.0, "a"), (2.0, True)):
        study.enqueue_trial({"kind": kind, "heads": 8})
        trial = study.ask()
        trial.suggest_categorical("kind", ["b", None, True, 1, "a"])
        trial.suggest_categorical("heads", [8, 2])
        trial.suggest_float("one.lr", 0, 1)
        trial.suggest_float("two.lr", 0, 1)
        study.tell(trial, [first, 1.0])
    front = pages.board.ask("/searches/two/tiny/points.json?kind=front")
    assert front.status == 200 and front.json["x"] == [1.0, 2.0]
    kinds = pages.board.ask("/searches/two/tiny/points.json?kind=slice&parameter=kind").json
    assert kinds["choices"] == ["b", "null", "true", "1", "a"] and kinds["x"] == [2, 4, 4]
    assert kinds["series"][0]["y"] == [2.0, None, 1.0]
    heads = pages.board.ask("/searches/two/tiny/points.json?kind=slice&parameter=heads").json
    assert heads["choices"] == [] and heads["x"] == [8, 8, 8]
    page = pages.board.ask("/searches/two/tiny").text
    assert "parameter=kind" in page and "parameter=one.lr" in page
    assert '<th class="n">one.lr</th>' in page and '<th class="n">kind</th>' in page


def test_places_do_not_depend_on_numbers_that_are_none() -> None:
    values = [math.nan, 57.0, None, 55.0, math.inf]
    assert sorted(values, key=lambda one: _place(one, 1.0))[:2] == [55.0, 57.0]
    assert sorted(values, key=lambda one: _place(one, -1.0))[:2] == [57.0, 55.0]


def test_numbers_of_any_file() -> None:
    assert numbers({"a": 1, "b": "x", "c": None, "d": 10**400, "e": math.inf}) == {"a": 1, "e": math.inf}
    assert numbers(["a"]) == {} and number(10**400) == "1.000e+400" and number(12_345) == "12,345"


def test_an_id_is_of_what_is_shown() -> None:
    assert ident("a", "b") != ident("a\0b", "") and ident("a", 1) == ident("a", 1)
    assert re.fullmatch("[0-9a-f]{16}", ident('"<'))


@pytest.mark.parametrize(
    ("data", "begun"), [(b"ab", 0), (b"a\r", 1), ("é".encode()[:1], 1), ("€".encode()[:2], 2), ("€".encode(), 0)]
)
def test_what_the_end_of_a_log_begins_waits(data: bytes, begun: int) -> None:
    assert _begun(b"line\n" + data) == begun


def test_a_token_is_taken_without_the_space_around_it(tmp_path: Path) -> None:
    assert read_token(None, f" {TOKEN}\n") == TOKEN
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    assert read_token(tmp_path / "token", None) == TOKEN
    with pytest.raises(Exception, match="holds 0 characters"):
        read_token(None, " " * 20)


@pytest.mark.parametrize("told", [{"done": 3, "total": -5, "rate": 1}, {"done": 3, "total": 4, "rate": -2}])
def test_odd_progress_is_no_promise(tmp_path: Path, told: dict[str, float]) -> None:
    home, ledger, plan = planned(tmp_path / "home")
    model = Model(home, ledger)
    model.refresh()
    key = plan.runs[0].stages["train"]
    model.progress[key] = told
    found = describe(model, model.jobs[key])
    assert found["eta"] is None and (found["share"] is None or 0 <= found["share"] <= 1)


@pytest.mark.parametrize(
    ("told", "kept"),
    [
        ("so far", {}),
        ([1, 2], {}),
        (None, {}),
        ({"done": "3", "total": None, "rate": 1.0, "phase": "warm"}, {"rate": 1.0, "phase": "warm"}),
    ],
)
def test_progress_of_any_file(told: object, kept: dict[str, object]) -> None:
    assert _numbers_of(told) == kept


def test_what_a_command_takes_is_not_known_in_advance(pages: Pages) -> None:
    model = Model(pages.home, pages.ledger)
    model.refresh()
    own = model.summary(model.groups["own", pages.own.experiment.profile])
    assert own["queued"] == 1 and own["rest"] is None and own["eta"] is None
    many = model.summary(next(group for (name, _), group in model.groups.items() if name == "many"))
    assert "dataset" in many["flops_left"]


def test_a_key_with_a_null_byte_is_none(pages: Pages) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    assert pages.board.post("/do/retry", headers, key="a\0b").status == 404


def _said(ledger: Ledger, ago: float) -> SchedulerInfo:
    me = ledger.schedulers.enter("local")
    with ledger.database.transaction() as connection:
        connection.execute(
            text("update schedulers set host = 'another', seen = :seen where id = :id"),
            {"id": me.id, "seen": time.time() - ago},
        )
    return ledger.schedulers.all()[me.id]


def test_a_scheduler_that_was_long_silent_is_not_at_work(tmp_path: Path) -> None:
    """It cannot be asked from here, but nobody promises anything for it; its place stays until its jobs are adopted."""
    home, ledger, _ = planned(tmp_path / "home")
    assert _said(ledger, 5.0).may_be_alive()
    silent = _said(ledger, 3 * 86400.0)
    assert not silent.may_be_alive() and silent.alive() is None
    model = Model(home, ledger)
    model.refresh()
    assert len(model.at_work()) == 1 and len(model.schedulers) == 2


def test_time_that_is_spent_goes_on_without_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, ledger, plan = planned(tmp_path / "home")
    key = plan.runs[0].stages["train"]
    assert ledger.jobs.claim(ledger.jobs.of([key])[key], "me", "started", Allocation("here", 1))
    model = Model(home, ledger)
    model.refresh()
    group, now = model.groups["many", "tiny"], time.time()
    before = model.summary(group)["spent"]
    monkeypatch.setattr(time, "time", lambda: now + 100.0)
    assert model.summary(group)["spent"] > before + 90


def test_a_damaged_result_ends_nothing(tmp_path: Path) -> None:
    home, ledger, plan = planned(tmp_path / "home")
    key = plan.runs[0].stages["train"]
    assert ledger.jobs.claim(ledger.jobs.of([key])[key], "me", "started", Allocation("here", 1))
    folder = home.job("train", key)
    folder.path.mkdir(parents=True)
    folder.result.write_text('{"metr')
    model = Model(home, ledger)
    model.refresh()
    assert model.jobs[key].state == "running"


def test_counts_of_one_page_agree(tmp_path: Path) -> None:
    """What no experiment needs any more is counted nowhere."""
    home, ledger, plan = planned(tmp_path / "home")
    key = plan.runs[0].stages["train"]
    running = ledger.jobs.claim(ledger.jobs.of([key])[key], "me", "started", Allocation("here", 1))
    assert running and ledger.jobs.move(running, FAILED, "nan", "so", error="NoError: x", error_class="NoError")
    board = BoardServer(home.path)
    try:
        assert '1 <span class="state s-failed">' in board.ask("/").text and "all 1" in board.ask("/").text
        assert "NoError: x" in board.ask("/").text and "NoError: NoError" not in board.ask("/").text
        ledger.runs.forget_experiment("many", "tiny")
        board.stop()
        board = BoardServer(home.path)
        page = board.ask("/").text
        assert "s-failed" not in page and "s-queued" not in page
    finally:
        board.stop()


def test_a_record_that_changed_is_drawn_again(tmp_path: Path) -> None:
    """Its pictures are those of the former figures, though the numbers are the same."""
    from star_board.results import Results, Shelf

    home, ledger, _ = planned(tmp_path / "home")
    model = Model(home, ledger)
    model.refresh()
    shelf = Shelf(model, f"sqlite:///{home.mlflow}")
    group = model.groups["many", "tiny"]
    found = shelf.of(group)
    assert isinstance(found, Results)
    found.pictures["probe"] = b"drawn"
    shelf._held[group.address] = (*shelf._held[group.address][:1], -1e9, found)  # read long ago
    again = shelf.of(group)
    assert isinstance(again, Results) and again is not found and again.pictures == {"probe": b"drawn"}
    path = record_path(home, "many", "tiny")
    path.write_text(path.read_text().replace("Twenty jobs", "Twenty other jobs"))
    fresh = shelf.of(group)
    assert isinstance(fresh, Results) and not fresh.pictures
