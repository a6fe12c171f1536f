"""Notifications of a run: a job failed for good, an experiment or a search ended, a claim is decided.

STAR_NOTIFY names the receiver: an http(s) address, which gets JSON by POST, or a command, which gets it on its standard
input. It is read only from the environment: such an address is a secret and must not be in a spec, a log or the ledger.
"""

from __future__ import annotations

import json
import os
import queue
import shlex
import subprocess
import threading
from collections.abc import Callable, Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from star.errors import StarError
from star.ledger.states import FAILED, Job
from star.rundir import read_json

VARIABLE = "STAR_NOTIFY"
PATIENCE = 10.0
"""Seconds that a receiver may take, and that a run waits at its end for events that are not delivered yet."""
Event = dict[str, Any]


class _NoRedirect(HTTPRedirectHandler):
    """Follows no redirect: an event may be confidential."""

    def redirect_request(self, *args: Any, **options: Any) -> None:
        return None


def receiver() -> str | None:
    """The receiver that STAR_NOTIFY names, checked; None if it is not set.

    Raises:
        StarError: it is neither an address that can be used nor a command that is found.
    """
    target = os.environ.get(VARIABLE, "").strip()
    if not target:
        return None
    if is_address(target):
        try:
            host, _ = urlsplit(target).hostname, urlsplit(target).port
        except ValueError:
            host = None
        if not host or not target.isascii() or not target.isprintable() or " " in target:
            raise StarError(
                f"{VARIABLE}: is no address that can be used; give one such as https://hooks.example.org/abc."
            )
        return target
    try:
        program = shlex.split(target)[0]
    except (ValueError, IndexError):
        raise StarError(f"{VARIABLE}: is no command line that can be read; mind its quotes.") from None
    from shutil import which

    if which(program) is None:
        raise StarError(f"{VARIABLE}: {program} is no command that is found here; give one, or an http(s) address.")
    return target


def is_address(target: str) -> bool:
    """Whether a receiver is an http(s) address and not a command."""
    return target.startswith(("http://", "https://"))


def deliver(target: str, event: Event) -> str | None:
    """Send an event to the receiver; returns what went wrong, without the address, or None."""
    content = json.dumps(event).encode()
    if not is_address(target):
        try:
            done = subprocess.run(
                shlex.split(target), input=content, capture_output=True, timeout=PATIENCE, env=_without_secrets()
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"its command did not work: {type(error).__name__}"
        return f"its command ended with exit code {done.returncode}" if done.returncode else None
    request = Request(target, content, {"Content-Type": "application/json", "User-Agent": "star-exp"})
    try:
        with build_opener(_NoRedirect).open(request, timeout=PATIENCE) as answer:
            return None if 200 <= answer.status < 300 else f"{urlsplit(target).hostname} answered {answer.status}"
    except HTTPError as error:
        return f"{urlsplit(target).hostname} did not take it: {error.code}"
    except (OSError, ValueError, HTTPException) as error:  # their messages may hold the address
        reason = getattr(error, "reason", None)
        known = reason.strerror if isinstance(reason, OSError) and reason.strerror else type(error).__name__
        return f"{urlsplit(target).hostname} did not take it: {known}"


def _without_secrets() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in (VARIABLE, "STAR_BOARD_TOKEN")}


class Notifier:
    """Sends the events of one run from a thread, so that a slow receiver delays no job. A failure is reported once.

    Args:
        target: as `receiver` returns it; None: nothing is sent.
        about: fields of every event, such as the experiment's name.
        say: prints a warning.
    """

    def __init__(self, target: str | None, about: Mapping[str, str], say: Callable[[str], None]) -> None:
        self.target, self.about, self.say = target, dict(about), say
        self._told: set[tuple[str, int]] = set()
        self._first = True
        self._waiting: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="notifier", daemon=True)
        if target is not None:
            self._thread.start()

    def send(self, event: str, text: str, **details: Any) -> None:
        """Send one event without waiting for it. `text` is a sentence for people, as chat services show it."""
        if self.target is not None:
            self._waiting.put({"event": event, "text": text, **self.about, **details})

    def see(self, states: Mapping[str, Job]) -> None:
        """Send an event for each job that has failed for good since the last call; the first call sends nothing."""
        for job in states.values():
            if job.state == FAILED and (job.key, job.attempt) not in self._told:
                self._told.add((job.key, job.attempt))
                if not self._first:
                    first = (job.error or "no word").splitlines()[0].removeprefix(f"{job.error_class}: ")
                    why = f"{job.error_class}: {first}"
                    text = f"{self.about['experiment']}: {job.stage} {job.key} ({job.label}) failed: {why}"
                    self.send("job_failed", text, job=job.key, stage=job.stage, label=job.label, error=why)
        self._first = False

    def claims(self, before: Mapping[str, str], now: Mapping[str, str]) -> None:
        """Send an event for each claim that is decided now and was undecided, or decided otherwise, before."""
        for claim, verdict in now.items():
            if verdict != "undecided" and before.get(claim, "undecided") != verdict:
                text = f"{self.about['experiment']}: the claim {claim} is {verdict}"
                self.send("claim_decided", text, claim=claim, verdict=verdict)

    def close(self) -> None:
        """Wait for events that are not delivered yet, at most `PATIENCE` seconds."""
        if self.target is not None:
            self._waiting.put(None)
            self._thread.join(PATIENCE)

    def _work(self) -> None:
        warned = False
        while (event := self._waiting.get()) is not None:
            assert self.target is not None
            wrong = deliver(self.target, event)
            if wrong and not warned:
                self.say(f"warning: {VARIABLE}: {wrong}; the run goes on")
                warned = True


def verdicts(folder: Path) -> dict[str, str]:
    """Id of a claim -> verdict, as the report in a folder has them; empty if there is no report."""
    found = read_json(folder / "claims.json") or {}
    return {one["id"]: one["verdict"] for one in found.get("claims", [])}


def send_test() -> str:
    """Send a test event to the receiver; returns what to print.

    Raises:
        StarError: STAR_NOTIFY is not set or not legal, or the event was not delivered.
    """
    target = receiver()
    if target is None:
        raise StarError(f"{VARIABLE}: is not set; give an http(s) address, or a command such as 'notify-send star'.")
    wrong = deliver(target, {"event": "test", "text": "star-exp: this is a test", "experiment": "none"})
    if wrong:
        raise StarError(f"{VARIABLE}: {wrong}.")
    return "delivered"
