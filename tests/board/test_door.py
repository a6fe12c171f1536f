"""What a board refuses: strangers' names and origins, forged forms, wrong tokens, paths and keys that lead elsewhere."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from starlette.responses import Response

from star.ledger.states import FAILED
from star.ledger.store import open_ledger
from star.rundir import Home
from star_board.board import address
from star_board.door import Sessions
from tests.board.conftest import BAD
from tests.board.server import TOKEN, BoardServer
from tests.board.test_model import planned
from tests.helpers import star_exp
from tests.services import until


def failed_key(home: Path) -> str:
    return open_ledger(Home(home)).jobs.of_state(FAILED)[0].key


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "localhost@evil.example", "[::1", "0.0.0.0"],
)
def test_a_foreign_host_is_refused(board: BoardServer, host: str) -> None:
    """DNS rebinding: a foreign page whose name leads here must not read anything."""
    answer = board.ask("/", headers={"Host": host})
    assert answer.status in (400, 421) and b"<html" not in answer.body


def test_own_names_are_let_in(board: BoardServer) -> None:
    for host in (f"localhost:{board.port}", f"127.0.0.1:{board.port}", f"[::1]:{board.port}", "LOCALHOST"):
        assert board.ask("/", headers={"Host": host}).status == 200, host


def test_headers_tell_browsers_what_not_to_do(board: BoardServer) -> None:
    for path in ("/", "/static/board.js", "/health", "/no/such/page", "/jobs/nothing"):
        headers = board.ask(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'self'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "DENY"
        assert "access-control-allow-origin" not in headers and "server" not in headers


def test_without_the_token_nothing_changes(board: BoardServer, shown: Path) -> None:
    key = failed_key(shown)
    before = open_ledger(Home(shown)).jobs.history(key)
    tries = [
        board.post("/do/retry", key=key),
        board.post("/do/retry", key=key, form_key="x"),
        board.post("/do/retry", {"Cookie": "star_board=forged"}, key=key, form_key="forged"),
        board.post("/do/retry", {"Authorization": "Bearer wrong"}, key=key),
        board.post("/do/retry", {"Authorization": f"Basic {TOKEN}"}, key=key),
        board.post("/do/cancel", experiment=BAD),
        board.post("/do/rerun", key=key),
        board.post("/do/run", file="tiny.yaml"),
    ]
    assert [answer.status for answer in tries] == [403] * len(tries)
    assert open_ledger(Home(shown)).jobs.history(key) == before
    assert board.ask("/do/retry?key=" + key, headers=board.sign_in()).status == 405  # a GET changes nothing


def test_another_sites_form_is_refused(board: BoardServer, shown: Path) -> None:
    """CSRF: even with the cookie, what another page sends does nothing."""
    cookie, key = board.sign_in(), failed_key(shown)
    form_key = board.ask(f"/ask/retry?key={key}", headers=cookie).form_key()
    fields = {"key": key, "form_key": form_key}
    before = open_ledger(Home(shown)).jobs.history(key)
    for origin in (
        "http://evil.example",
        "null",
        f"http://127.0.0.1:{board.port + 1}",
        f"http://localhost:{board.port}",
    ):
        assert board.post("/do/retry", {**cookie, "Origin": origin}, **fields).status == 403, origin
    assert board.post("/do/retry", {**cookie, "Sec-Fetch-Site": "cross-site"}, **fields).status == 403
    assert board.post("/do/retry", cookie, key=key).status == 403  # own origin, no form key
    other = board.sign_in()
    assert board.post("/do/retry", other, **fields).status == 403  # a form of another session
    assert open_ledger(Home(shown)).jobs.history(key) == before


def test_the_cookie_is_for_this_board_alone(board: BoardServer) -> None:
    cookie = board.post("/login", token=TOKEN).headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie and TOKEN not in cookie
    # and not for a board with another token
    key = board.sign_in()["Cookie"]
    assert "Sign out" in board.ask("/", headers={"Cookie": key}).text
    session, dot, signature = key.rpartition(".")
    forged = ("A" if signature[0] != "A" else "B") + signature[1:]  # the last character has bits that mean nothing
    assert "Sign out" not in board.ask("/", headers={"Cookie": session + dot + forged}).text
    other = Response()
    Sessions("another token").begin(other, secure=False)
    assert "Sign out" not in board.ask("/", headers={"Cookie": other.headers["set-cookie"].split(";")[0]}).text


@pytest.mark.parametrize(
    "back",
    [
        "//evil.example",
        "https://evil.example",
        "/\\evil.example",
        "javascript:alert(1)",
        "/\t/evil.example",
        "/\n/evil.example",
        "/x\\y",
    ],
)
def test_nobody_is_sent_elsewhere(board: BoardServer, back: str) -> None:
    assert board.post("/login", token=TOKEN, back=back).headers["location"] == "/"
    asked = board.ask(address("ask", "retry", experiment="tiny", back=back), headers=board.sign_in()).text
    assert back not in board.ask(address("login", back=back)).text and f'href="{back}"' not in asked


def test_wrong_tokens_are_slowed_down(shown: Path) -> None:
    server = BoardServer(shown)
    try:
        found = [server.post("/login", token=f"wrong {i}").status for i in range(12)]
        assert found[:10] == [403] * 10 and found[10:] == [429] * 2
        assert server.post("/login", token=TOKEN).status == 303  # nobody can lock others out by guessing
    finally:
        server.stop()


@pytest.mark.parametrize(
    "path",
    [
        "/jobs/..%2f..%2fledger.sqlite",
        "/jobs/../../etc/passwd",
        "/jobs/%2e%2e/log.txt",
        "/jobs/KEY/files/..%2fjob.json",
        "/jobs/KEY/files/result.json",
        "/jobs/KEY/files/%2e%2e%2f%2e%2e%2f%2e%2e%2fledger.sqlite",
        "/static/../app.py",
        "/static/..%2f..%2fapp.py",
        "/static/%2e%2e/app.py",
        "/experiments/..%2f..%2fledger/tiny",
        "/experiments/tiny/..%2f..%2fx/results",
        "/experiments/tiny/tiny/figures/..%2f..%2fx.png",
        "/searches/..%2f..%2fx/tiny",
        "/runs/' OR 1=1 --",
        "/runs/%00",
        "/ask/run?file=../../etc/passwd",
        "/ask/run?file=%2fetc%2fpasswd",
        "/ask/format?key=KEY",
        "/compare?run=..%2f..%2fx",
        "/curves.json?run=KEY&metric=..%2f..%2fjob",
    ],
)
def test_paths_and_keys_lead_nowhere_else(board: BoardServer, shown: Path, path: str) -> None:
    answer = board.ask(path.replace("KEY", failed_key(shown)).replace(" ", "%20").replace("'", "%27"))
    assert answer.status == 404, answer.text
    for secret in ("SQLite format", "root:", '"spec":', "def create_app"):
        assert secret not in answer.text


def test_filters_are_no_sql_and_no_patterns(board: BoardServer) -> None:
    for query in ("%27%20OR%201=1%20--", "%25", "_", "%00", "\\", "%27;drop%20table%20jobs;--"):
        for path in ("/?q=", "/runs?q=", "/find?q="):
            answer = board.ask(path + query)
            assert answer.status in (200, 303), (path, query)
        assert "No run fits" in board.ask("/runs?q=" + query).text or query in ("_",), query
    assert "of 2" in board.ask("/").text  # nothing was dropped
    for odd in ("page=-1", "page=1e9", "page=99999999999999999999", "sort=nothing", "state=%3Cscript%3E"):
        assert board.ask(f"/runs?{odd}").status == 200, odd


def test_a_form_may_not_be_endless(board: BoardServer) -> None:
    length = {"Content-Length": str(10**9), "Origin": board.url}
    assert board.ask("/login", "POST", headers=length).status == 413
    assert board.ask("/login", "POST", headers={"Transfer-Encoding": "chunked", "Origin": board.url}).status == 413


def test_keys_that_look_like_options_are_keys(board: BoardServer) -> None:
    cookie = board.sign_in()
    form_key = board.ask("/ask/retry?experiment=tiny", headers=cookie)
    assert form_key.status == 200
    key = board.ask("/ask/run?file=tiny.yaml", headers=cookie).form_key()
    answer = board.post("/do/retry", cookie, key="--failed", form_key=key)
    assert answer.status == 200 and "Not done" in answer.text and "begins no key" in answer.text
    answer = board.post("/do/cancel", cookie, experiment="--help", form_key=key)
    assert "there is no experiment of that name" in answer.text


def test_the_token_is_nowhere(shown: Path) -> None:
    """Not in logs, pages, the ledger, or MLflow's database."""
    server = BoardServer(shown, "--experiments", str(shown.parent / "experiments"), cwd=shown.parent)
    cookie = server.sign_in()
    server.post("/login", token="not the token at all")
    pages = [server.ask(path, headers=cookie).text for path in ("/", "/start", "/queue", "/login")]
    log = server.said + server.stop()
    assert TOKEN not in log + "".join(pages) and "not the token" not in log
    for file in [*shown.glob("*.sqlite*"), *shown.glob("experiments/**/*.yaml"), *shown.glob("experiments/*.json")]:
        assert TOKEN.encode() not in file.read_bytes(), file


def test_a_token_comes_from_a_file_and_is_long_enough(tmp_path: Path, shown: Path) -> None:
    short = tmp_path / "token"
    short.write_text("secret\n")
    for arguments, says in (
        (["--token-file", short], "holds 6 characters; give at least 16"),
        (["--token-file", tmp_path / "nowhere"], "cannot be read: No such file"),
        (["--port", "99999"], "99999"),
        (["--host", "no.such.host.invalid"], "is no address of this machine"),
        (["--mlflow-ui", "nowhere"], "give an address such as"),
    ):
        done = star_exp("board", *map(str, arguments), home=shown)
        assert done.returncode == 2 and says in done.stderr and "Traceback" not in done.stderr, done.stderr
        assert "secret" not in done.stderr


def test_a_home_without_runs_is_shown_as_that_and_filled(tmp_path: Path) -> None:
    """The board may be there first: it makes nothing, says that nothing has run, and shows what then comes."""
    home = tmp_path / "home"
    server = BoardServer(home, cwd=tmp_path)
    try:
        assert not home.exists()
        for path in ("/", "/runs", "/queue", "/failures", "/searches", "/gallery", "/claims", "/start", "/health"):
            assert server.ask(path).status == 200, path
        assert "Nothing has run in this home yet" in server.ask("/").text
        assert server.ask("/jobs/0123456789abcdef").status == server.ask("/runs/0123456789abcdef").status == 404
        planned(home)
        until(lambda: "many" in server.ask("/").text, "the experiment is shown", 20)
    finally:
        assert "Traceback" not in server.stop()


def test_a_taken_port_is_said(board: BoardServer, shown: Path) -> None:
    done = star_exp("board", "--port", str(board.port), home=shown)
    assert done.returncode == 2 and "something listens there already" in done.stderr


def test_only_loopback_listens(board: BoardServer) -> None:
    """Nothing but 127.0.0.1 unless told."""
    table = Path("/proc/net/tcp").read_text().splitlines()[1:]
    listening = [line.split()[1] for line in table if line.split()[3] == "0A"]
    assert f"0100007F:{board.port:04X}" in listening
    assert not any(one.endswith(f":{board.port:04X}") and not one.startswith("0100007F") for one in listening)
    assert os.path.exists("/proc/net/tcp6") and f":{board.port:04X} 0000" not in Path("/proc/net/tcp6").read_text()
