"""Live updates: one task refreshes the model while anybody watches, and all pages are notified at once."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from star.errors import StarError
from star_board.model import Model
from star_board.results import LAG, SETTLED

log = logging.getLogger(__name__)
EVERY = 0.3
"""Seconds between refreshes while somebody watches."""
PULSE = 15.0
"""Seconds after which an idle stream sends a keep-alive."""
MOST = 500
"""Most streams at a time."""
PAGES_KEPT = 300


class Live:
    """Keeps one board's model up to date, and streams its changes to viewers."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.trouble: str | None = None
        """Error of a ledger that does not answer; pages show it, with the last known data."""
        self._listeners: set[asyncio.Event] = set()
        self._looked = 0.0
        self._lock = threading.Lock()
        self.stopping = False

    def look(self, again: bool = False) -> None:
        """Refresh the model, unless it was refreshed less than EVERY seconds ago.

        Args:
            again: refresh in any case, because something requested was not found.
        """
        with self._lock:
            if not again and time.monotonic() - self._looked < EVERY:
                return
            try:
                self.model.refresh()
                self.trouble = None
            except StarError as error:
                if self.trouble is None:
                    self.model.version += 1
                self.trouble = str(error)
            self._looked = time.monotonic()

    async def watch(self) -> None:
        """Refresh every EVERY seconds while there are listeners, and notify them of changes."""
        told, changed, nudged = self.model.version, 0.0, 0.0
        while True:
            await asyncio.sleep(EVERY)
            if not self._listeners:
                continue
            try:
                await run_in_threadpool(self.look)
            except Exception:  # an error of one refresh must not end the task
                log.exception("the ledger could not be looked at")
                await asyncio.sleep(PULSE)
            now = time.monotonic()
            if self.model.version != told:
                changed = now
            elif now - changed < SETTLED and now - nudged > LAG:  # the tracker lags behind the ledger, without notice
                self.model.version += 1
                nudged = now
            if self.model.version != told:
                told = self.model.version
                for one in self._listeners:
                    one.set()

    async def events(self, request: Request) -> Response:
        """Stream `change` events with the model's version while the viewer stays; 503 if there are MOST streams."""
        if len(self._listeners) >= MOST:
            return PlainTextResponse("Too many viewers; the page works without live updates.\n", 503)
        return StreamingResponse(self._stream(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})

    async def _stream(self) -> AsyncIterator[str]:
        mine = asyncio.Event()
        self._listeners.add(mine)
        try:
            sent = self.model.version
            yield f"retry: 2000\nevent: change\ndata: {sent}\n\n"
            while not self.stopping:
                try:
                    await asyncio.wait_for(mine.wait(), PULSE)
                except TimeoutError:
                    yield ": still here\n\n"
                    continue
                mine.clear()
                if self.model.version != sent:
                    sent = self.model.version
                    yield f"event: change\ndata: {sent}\n\n"
        finally:
            self._listeners.discard(mine)


@dataclass
class _Page:
    version: object
    digest: str
    body: bytes


class Pages:
    """Cache of pages: each version of an address is rendered and compressed once for all viewers."""

    def __init__(self) -> None:
        self._held: OrderedDict[str, _Page] = OrderedDict()
        self._making = [threading.Lock() for _ in range(64)]
        """Locks, shared by addresses through their hash: the same page is not rendered twice at a time."""
        self._order = threading.Lock()

    def get(self, address: str, version: object, make: Callable[[], str]) -> _Page:
        """The page of an address; it is made if it is missing or has another version."""
        with self._making[hash(address) % len(self._making)]:
            held = self._held.get(address)
            if held is None or held.version != version:
                text = make().encode()
                digest = hashlib.blake2b(text, digest_size=9).hexdigest()
                held = _Page(version, digest, gzip.compress(text, 5, mtime=0))
            with self._order:
                self._held[address] = held
                self._held.move_to_end(address)
                while len(self._held) > PAGES_KEPT:
                    self._held.popitem(last=False)
            return held


def answer(request: Request, page: _Page) -> Response:
    """The answer with a cached page; 204 if the viewer's X-Have says that it has this page."""
    if request.headers.get("x-have") == page.digest:
        return Response(status_code=204)
    headers = {"X-Digest": page.digest, "Vary": "Accept-Encoding, X-Have"}
    if "gzip" in request.headers.get("accept-encoding", ""):
        headers["Content-Encoding"] = "gzip"
        return Response(page.body, 200, headers, "text/html")
    return Response(gzip.decompress(page.body), 200, headers, "text/html")
