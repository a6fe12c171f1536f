"""A board in a process of its own, as a user starts it, and plain requests to it."""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tests.helpers import ROOT

TOKEN = "a token that only the tests know"


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def form_key(self) -> str:
        """Of the page's form."""
        found = re.search(r'name="form_key" value="([^"]+)"', self.text)
        assert found, self.text
        return found[1]


class BoardServer:
    """`star-exp board` on a home."""

    def __init__(self, home: Path, *options: str, token: str | None = TOKEN, cwd: Path = ROOT) -> None:
        environment = {name: value for name, value in os.environ.items() if name != "STAR_BOARD_TOKEN"}
        environment |= {"STAR_BOARD_TOKEN": token} if token else {}
        port = [] if "--port" in options else ["--port", "0"]
        command = [sys.executable, "-m", "star.cli", "board", "--home", str(home), *port, *options]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=cwd
        )
        assert self.process.stdout is not None
        self.said = self.process.stdout.readline()
        found = re.match(r"http://127\.0\.0\.1:(\d+)/", self.said)
        assert found, self.said + (self.process.stderr.read() if self.process.stderr else "")
        self.port = int(found[1])
        self.url = f"http://127.0.0.1:{self.port}"

    def stop(self) -> str:
        """End it as Ctrl-C would; returns what it wrote to its log."""
        self.process.terminate()
        _, log = self.process.communicate(timeout=200)
        return log

    def ask(
        self, path: str, method: str = "GET", body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """One request with exactly these headers (and Host, where they have none)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        given = {"Host": f"127.0.0.1:{self.port}"} | dict(headers or {})
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in given.items():
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        response = connection.getresponse()
        answer = Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        connection.close()
        return answer

    def post(self, path: str, headers: Mapping[str, str] | None = None, **fields: Any) -> Answer:
        """A form, as one of the board's own pages would send it."""
        own = {"Content-Type": "application/x-www-form-urlencoded", "Origin": self.url}
        return self.ask(path, "POST", urlencode(fields, doseq=True).encode(), own | dict(headers or {}))

    def sign_in(self) -> dict[str, str]:
        """The header of a viewer who has given the token."""
        answer = self.post("/login", token=TOKEN)
        assert answer.status == 303, answer.text
        return {"Cookie": answer.headers["set-cookie"].split(";")[0]}
