"""docker-compose.yml, proven without a container engine: each service's own command, as a process on loopback, with its own health check.

What is replaced is what a container would give: names of hosts and their ports, and where secrets and volumes are mounted.
"""

from __future__ import annotations

import base64
import csv
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.board.server import Answer
from tests.helpers import DATA, ROOT, TINY
from tests.services import find_postgres, free_port, until

COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
PORTS = {"postgres": 5432, "mlflow": 5000, "optuna": 8080, "optuna-door": 8091, "board": 8090}
BIN = Path(sys.executable).parent


def interpolated(text: str) -> str:
    """Compose's `${NAME:-default}` and `${NAME:+other}`, with no variable set."""
    text = re.sub(r"\$\{\w+:\+[^}]*\}", "", text)
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


class Services:
    """The compose file's services on this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.running = folder, dict[str, subprocess.Popen[bytes]]()
        # not in pytest's folder, which another session closes to everybody else
        self.database = Path(tempfile.mkdtemp(prefix="star-compose-"))
        self.ports = {name: free_port() for name in PORTS}
        folder.mkdir()
        subprocess.run(["make", "-s", "-f", ROOT / "Makefile", "secrets"], cwd=folder, check=True, capture_output=True)
        for name in ("star", "artifacts", "opt"):
            (folder / name).mkdir()
        ini = ROOT / "dashboards" / "compose" / "mlflow_auth.ini"
        (folder / "opt" / ini.name).write_text(self.here(ini.read_text()))

    def secret(self, name: str) -> str:
        return (self.folder / "secrets" / name).read_text()

    def here(self, text: str) -> str:
        """A text of the compose file with what a container would give."""
        text = interpolated(text)
        if text.startswith("--allowed-hosts="):  # kept as it is: what clients are called in the network is under test
            return text
        for name, port in PORTS.items():
            text = re.sub(rf"(?<![\w-]){name}:{port}\b", f"127.0.0.1:{self.ports[name]}", text)
        for inside, outside in (
            ("/run/secrets/", f"{self.folder}/secrets/"),
            ("/opt/star/dashboards/compose/", f"{self.folder}/opt/"),
            ("/home/star", f"{self.folder}/star"),
            ("destination=/artifacts", f"destination={self.folder}/artifacts"),
            ("--host=0.0.0.0", "--host=127.0.0.1"),
        ):
            text = text.replace(inside, outside)
        return text

    def command(self, name: str, words: list[str]) -> list[str]:
        own = [self.here(word) for word in words]
        if name in PORTS:
            own = [word.replace(f"--port={PORTS[name]}", f"--port={self.ports[name]}") for word in own]
        return [sys.executable if own[0] == "python" else own[0], *own[1:]]

    def environment(self, name: str) -> dict[str, str]:
        listed = COMPOSE["services"][name].get("environment", {})
        given = {key: self.here(str(value)) for key, value in listed.items() if value is not None}
        kept = {key: os.environ[key] for key in ("HOME", "LANG") if key in os.environ}
        return kept | {"PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)} | given

    def start(self, name: str) -> None:
        """Start a service by its own command."""
        if name == "postgres":
            self._start_postgres()
            return
        command = self.command(name, COMPOSE["services"][name]["command"])
        with (self.folder / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                command, stdout=log, stderr=log, env=self.environment(name), cwd=self.folder, start_new_session=True
            )

    def _start_postgres(self) -> None:
        """As the image does: the cluster made with the password of its secret, once, then the file of its init folder."""
        data, port = self.database / "data", self.ports["postgres"]
        self._as = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.getuid() == 0 else []
        first = not data.exists()
        if first:
            data.mkdir()
            password = data.parent / "pwfile"
            password.write_text(self.secret("postgres_password"))
            if self._as:
                self.database.chmod(0o755)
                shutil.chown(data, "postgres")
                shutil.chown(password, "postgres")
            arguments = ["-A", "scram-sha-256", "-U", "star", f"--pwfile={password}", "--no-sync"]
            self._postgres("initdb", "-D", str(data), *arguments)
            password.unlink()
            with (data / "postgresql.conf").open("a") as conf:
                conf.write(f"listen_addresses='127.0.0.1'\nport={port}\nunix_socket_directories=''\nfsync=off\n")
        self._postgres("pg_ctl", "-D", str(data), "-l", str(data / "log"), "-w", "start")
        if first:
            self.psql("postgres", "-c", "create database star")
            self.psql("star", "-f", str(ROOT / "dashboards" / "compose" / "databases.sql"))

    def _postgres(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [*self._as, find_postgres(program), *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd="/"
        )
        assert done.returncode == 0, done.stderr.decode()

    def psql(self, database: str, *arguments: str) -> str:
        where = {
            "PGHOST": "127.0.0.1",
            "PGPORT": str(self.ports["postgres"]),
            "PGPASSWORD": self.secret("postgres_password"),
        }
        command = ["psql", "-U", "star", "-d", database, "-q", "-t", "-A", "-v", "ON_ERROR_STOP=1", *arguments]
        done = subprocess.run(command, env=os.environ | where, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def is_healthy(self, name: str) -> bool:
        """What the service's own health check says."""
        kind, *words = COMPOSE["services"][name]["healthcheck"]["test"]
        words = ["sh", "-c", *words] if kind == "CMD-SHELL" else words
        environment = self.environment(name)
        if name == "postgres":  # in its container it is asked through the socket
            environment |= {"PGHOST": "127.0.0.1", "PGPORT": str(self.ports[name])}
            environment["PGPASSWORD"] = self.secret("postgres_password")
        done = subprocess.run(
            self.command(name, words), env=environment, capture_output=True, timeout=60, cwd=self.folder
        )
        if done.returncode:
            time.sleep(0.5)  # a check is a process of its own, which what is starting could use better
        return done.returncode == 0

    def up(self) -> None:
        """All, each after what it depends on."""
        started: list[str] = []
        wanted = [name for name, one in COMPOSE["services"].items() if "profiles" not in one]
        while len(started) < len(wanted):
            for name in wanted:
                needs = COMPOSE["services"][name].get("depends_on", {})
                if name not in started and set(needs) <= set(started):
                    self.start(name)
                    self._wait(name)
                    started.append(name)

    def _wait(self, name: str) -> None:
        """Until it is what those that depend on it want."""
        if "healthcheck" in COMPOSE["services"][name]:
            until(lambda: self.is_healthy(name), f"{name} is healthy", 100)
        else:
            assert self.running.pop(name).wait(100) == 0, name

    def stop(self, name: str) -> None:
        """At once, as a crash would."""
        if name == "postgres":
            self._postgres("pg_ctl", "-D", str(self.database / "data"), "-m", "immediate", "-w", "stop")
            return
        os.killpg(self.running[name].pid, signal.SIGKILL)
        self.running[name].wait()

    def down(self) -> None:
        for name in (*self.running, "postgres"):
            self.stop(name)
        shutil.rmtree(self.database, ignore_errors=True)

    def worker(self, *arguments: str | Path) -> subprocess.Popen[str]:
        """`docker compose run worker star-exp ...`."""
        service = COMPOSE["services"]["worker"]
        command = self.command("worker", [*service["entrypoint"], "star-exp", *map(str, arguments)])
        return subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self.environment("worker"),
            cwd=self.folder / "star",
            start_new_session=True,
        )

    def ask(self, name: str, path: str, headers: dict[str, str] | None = None, body: str | None = None) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[name], timeout=60)
        connection.request("GET" if body is None else "POST", path, body, headers or {})
        response = connection.getresponse()
        answer = Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        connection.close()
        return answer

    def mlflow(self, path: str) -> Any:
        """An answer of MLflow's, asked as the admin."""
        answer = self.ask("mlflow", path, {"Authorization": basic("admin", self.secret("mlflow_password"))})
        assert answer.status == 200, answer.text
        return answer.json

    def runs(self) -> list[dict[str, Any]]:
        """All that MLflow holds."""
        found = self.mlflow("/api/2.0/mlflow/experiments/get-by-name?experiment_name=star")
        body = json.dumps({"experiment_ids": [found["experiment"]["experiment_id"]]})
        headers = {"Authorization": basic("admin", self.secret("mlflow_password")), "Content-Type": "application/json"}
        answer = self.ask("mlflow", "/api/2.0/mlflow/runs/search", headers, body)
        runs: list[dict[str, Any]] = answer.json.get("runs", [])
        return runs


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.fixture(scope="module")
def services(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    if not find_postgres("initdb"):
        pytest.skip("PostgreSQL is not installed; `make engines` installs it on Debian")
    found = Services(tmp_path_factory.mktemp("compose") / "project")
    runs = found.folder / "star" / "runs"
    shutil.copytree(prepared / "jobs", runs / "jobs")
    (runs / "data").mkdir()
    (runs / "data" / "fashion-mnist").symlink_to(DATA)
    try:
        found.up()
        yield found
    finally:
        found.down()


def test_train_search_and_report_while_each_service_is_restarted(services: Services) -> None:
    """Nothing is lost: all jobs done once, all curves in MLflow once, the table with both rows."""
    assert "Nothing has run in this home yet" in services.ask("board", "/").text
    run = services.worker("run", TINY, "--plain", "--out", "reports")
    until(lambda: "running" in services.ask("board", "/").text, "the board shows what another process group runs")
    for name in ("postgres", "mlflow", "board", "optuna", "optuna-door"):
        services.stop(name)
        services.start(name)
        until(lambda name=name: services.is_healthy(name), f"{name} is healthy again")
    said = run.communicate(timeout=300)[0]
    assert run.returncode == 0, said
    assert services.psql("star", "-c", "select count(*) from jobs where state <> 'done'") == "0"
    runs = services.runs()
    assert {one["info"]["run_name"] for one in runs} == {f"tiny: mask_ratio={r}, seed 0" for r in (0.25, 0.5)}
    assert {one["info"]["status"] for one in runs} == {"FINISHED"}
    home = services.folder / "star" / "runs"
    for one in runs:
        tags = {tag["key"]: tag["value"] for tag in one["data"]["tags"]}
        folder = home / "jobs" / f"train-{tags['star.key.train']}"
        steps = [
            line["step"]
            for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
            if "loss" in line["metrics"]
        ]
        curve = services.mlflow(
            f"/api/2.0/mlflow/metrics/get-history?run_id={one['info']['run_id']}&metric_key=train/loss"
        )
        assert sorted(point["step"] for point in curve["metrics"]) == sorted(steps)
        files = services.mlflow(f"/api/2.0/mlflow/artifacts/list?run_id={one['info']['run_id']}")
        assert {"spec.yaml", "train", "generate"} <= {file["path"] for file in files["files"]}
    assert list(services.folder.glob("artifacts/**/spec.yaml")), "artifacts go through the server into its volume"
    table = (services.folder / "star" / "reports" / "tiny" / "tiny" / "table.csv").read_text()
    page = services.ask("board", "/experiments/tiny/tiny/results").text
    for row in csv.DictReader(table.splitlines()):
        assert f"{float(row['FD']):.2f}" in page and f"{float(row['Probe %']):.2f}" in page

    search = services.worker(
        "search", ROOT / "tests" / "tiny_search.yaml", "--trials", "2", "--plain", "--out", "reports"
    )
    said = search.communicate(timeout=300)[0]
    assert search.returncode == 0, said
    assert services.psql("star", "-c", "select count(*) from star_studies.trials") >= "2"
    report = services.worker("report", TINY, "--out", "again")
    assert report.wait(100) == 0
    again = services.folder / "star" / "again" / "tiny" / "tiny"
    assert (again / "table.csv").read_text() == table
    until(lambda: "/searches/" in services.ask("board", "/searches").text, "the board shows the search")


def test_mlflow_lets_in_who_has_the_password_by_the_names_of_the_network(services: Services) -> None:
    path, right = (
        "/api/2.0/mlflow/experiments/get-by-name?experiment_name=Default",
        basic("admin", services.secret("mlflow_password")),
    )
    assert services.ask("mlflow", path).status == 401
    for user, password in (("admin", "password1234"), ("admin", ""), ("star", services.secret("mlflow_password"))):
        assert services.ask("mlflow", path, {"Authorization": basic(user, password)}).status == 401
    assert services.ask("mlflow", path, {"Authorization": right, "Host": "mlflow:5000"}).status == 200
    refused = services.ask("mlflow", path, {"Authorization": right, "Host": "evil.example"})
    assert refused.status == 403 and "Invalid Host" in refused.text


def test_optuna_dashboard_stands_behind_the_boards_door(services: Services) -> None:
    token = services.secret("board_token")
    for headers in ({}, {"Cookie": "star_board=forged"}, {"Authorization": f"Bearer {token}"}):
        assert services.ask("optuna-door", "/api/studies", headers).status == 401
    browser = services.ask("optuna-door", "/dashboard", {"Accept": "text/html"})
    assert browser.status == 303 and browser.headers["location"] == "http://127.0.0.1:8090/login"
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    signed = services.ask("board", "/login", form, f"token={token}")
    cookie = {"Cookie": signed.headers["set-cookie"].split(";")[0]}
    assert services.ask("optuna-door", "/api/studies", cookie).status == 200
    assert services.ask("optuna-door", "/dashboard", cookie).status == 200
    origin = {"Origin": "http://evil.example", "Content-Type": "application/json"}
    assert services.ask("optuna-door", "/api/studies", cookie | origin, "{}").status == 403
    assert services.ask("optuna-door", "/api/studies", cookie | {"Host": "evil.example"}).status == 421


def test_a_health_check_proves_use(services: Services) -> None:
    """Not the process but its work is probed: without its database a service that still lives is not healthy."""
    services.stop("postgres")
    try:
        assert not services.is_healthy("postgres")
        for name in ("mlflow", "optuna", "optuna-door", "board"):
            assert services.running[name].poll() is None
        until(lambda: not services.is_healthy("board"), "the board says so")
        assert not services.is_healthy("mlflow") and not services.is_healthy("optuna-door")
    finally:
        services.start("postgres")
    until(lambda: all(map(services.is_healthy, PORTS)), "all are healthy again")


def test_secrets_are_nowhere_but_in_their_files(services: Services) -> None:
    secrets = [
        services.secret(name) for name in ("postgres_password", "mlflow_password", "mlflow_secret_key", "board_token")
    ]
    assert len(set(secrets)) == 4 and all(len(one) == 48 for one in secrets)
    seen = [file.read_bytes() for file in services.folder.glob("*.log")]
    seen += [
        file.read_bytes()
        for file in services.folder.glob("star/**/*")
        if file.is_file() and file.stat().st_size < 10**7
    ]
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            seen.append(process.read_bytes())
        except OSError:
            continue
    for table in ("jobs", "runs", "experiments", "history", "schedulers", "facts"):
        seen.append(services.psql("star", "-c", f"select * from {table}").encode())
    for secret in secrets:
        assert not any(secret.encode() in content for content in seen)
    assert (services.folder / "secrets").stat().st_mode & 0o077 == 0


def test_the_file_keeps_its_promises() -> None:
    """Pinned images, loopback, secrets from files, start order, health checks: what no run of the services would show."""
    images = {name: one.get("image", "") for name, one in COMPOSE["services"].items()}
    for name, image in images.items():
        own = image == "star-exp:0.1.0" and COMPOSE["services"][name]["pull_policy"] in ("never", "build")
        assert own or re.fullmatch(r"[\w./-]+:[\w.-]+@sha256:[0-9a-f]{64}", image), name
    assert re.search(
        r"^FROM python:[\d.]+-slim@sha256:[0-9a-f]{64}$", (ROOT / "dashboards/compose/Dockerfile").read_text(), re.M
    )
    for name, one in COMPOSE["services"].items():
        for port in one.get("ports", []):
            assert port.startswith("${STAR_BIND:-127.0.0.1}:"), name
        assert "healthcheck" in one or one["restart"] == "no", name
        for needed, how in one.get("depends_on", {}).items():
            ends = COMPOSE["services"][needed].get("restart") == "no"
            assert how["condition"] == ("service_completed_successfully" if ends else "service_healthy"), name
        values = json.dumps([one.get("environment", {}), one.get("command", [])])
        assert not re.search(r"(?i)password=(?!/run/secrets)|password1234|latest", values), name
    assert [name for name, one in COMPOSE["services"].items() if "build" in one] == ["mlflow"], "one image, built once"
    assert set(COMPOSE["volumes"]) == {"postgres", "artifacts", "home", "storage"}
    assert "optuna" in images and "ports" not in COMPOSE["services"]["optuna"], "it has no authentication"
    lock = (ROOT / "requirements" / "all.lock").read_text()
    for package in ("psycopg-binary", "optuna-dashboard", "uvicorn", "mlflow", "boto3"):
        assert re.search(rf"^{package}==", lock, re.M), package


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["A=/no/such/file", "--", "true"], "A: /no/such/file cannot be read: No such file"),
        (["A=/dev/null", "--", "true"], "is empty"),
        (["A=/etc/hostname"], "give NAME=FILE"),
        (["--", "no-such-command"], "no-such-command: No such file"),
    ],
)
def test_a_secret_that_is_missing_is_said(arguments: list[str], says: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "star_services.with_secrets", *arguments], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1 and says in done.stderr and "Traceback" not in done.stderr
