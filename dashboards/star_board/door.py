"""Access control: host names, origins of changes, sessions, and security headers."""

from __future__ import annotations

import hmac
import secrets
import time
from collections import OrderedDict, deque
from urllib.parse import urlsplit

from itsdangerous import BadSignature, URLSafeTimedSerializer
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from star_board.settings import Settings

COOKIE = "star_board"
HOURS = 12
"""Hours that a sign-in lasts."""
TRIES, WINDOW, CLIENTS = 10, 60.0, 1000
"""Wrong tokens of one client within WINDOW seconds after which it must wait, and number of clients remembered.

The right token is accepted all the same: it is too long to guess, and behind a proxy all clients look like one.
"""
LARGEST = 64 * 1024
"""Most bytes of a form."""
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class Door:
    """Middleware: a request's Host must be one of the board's, and a change must come from the board's own pages."""

    def __init__(self, app: ASGIApp, settings: Settings, policy: str | None = None) -> None:
        self.app, self.hosts = app, settings.allowed_hosts
        self.headers = HEADERS | ({"Content-Security-Policy": policy} if policy else {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request or pass it on; the answer gets the security headers."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = self._refusal(scope, headers)

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                told = MutableHeaders(scope=message)
                for name, value in self.headers.items():
                    told.setdefault(name, value)
                told.setdefault("Cache-Control", "no-store")
            await send(message)

        await (refusal or self.app)(scope, receive, with_headers)

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        host = headers.get("host", "")
        if _name(host) not in self.hosts:
            return PlainTextResponse(
                "This board is not addressed by that name; `star-exp board --allow-host NAME` adds one.\n", 421
            )
        if scope["method"] in ("GET", "HEAD"):
            return None
        origin, site = headers.get("origin"), headers.get("sec-fetch-site", "same-origin")
        if (origin is not None and _place_of(origin) != host.lower()) or site not in ("same-origin", "none"):
            return PlainTextResponse("A change must come from the board's own pages.\n", 403)
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > LARGEST or "transfer-encoding" in headers:
            return PlainTextResponse("The form is too large.\n", 413)
        return None


def _place_of(origin: str) -> str:
    """Host and port of an Origin header, in lower case; empty for what is no address."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _name(host: str) -> str:
    """The host name of `name:port`, in lower case."""
    name, colon, port = host.lower().rpartition(":")
    return name if colon and port.isdecimal() else host.lower()


def client_of(request: Request) -> str:
    """IP address of a request's client; empty if unknown."""
    return request.client.host if request.client else ""


class Sessions:
    """Sessions of viewers who gave the token. A session is a signed cookie; a new token makes all of them invalid."""

    def __init__(self, token: str | None) -> None:
        self.token = token
        self._signer = URLSafeTimedSerializer(token or secrets.token_hex(16), salt="star-board session")
        self._forms = URLSafeTimedSerializer(token or secrets.token_hex(16), salt="star-board form")
        self._wrong: OrderedDict[str, deque[float]] = OrderedDict()

    def is_throttled(self, client: str) -> bool:
        """Whether a client gave TRIES wrong tokens in the last WINDOW seconds; other clients need not wait."""
        wrong = self._wrong.get(client)
        return wrong is not None and len(wrong) == TRIES and time.monotonic() - wrong[0] < WINDOW

    def is_token(self, given: str, client: str) -> bool:
        """Whether `given` is the token, compared in constant time; a wrong one is counted for `client`."""
        right = self.token is not None and hmac.compare_digest(given.encode(), self.token.encode())
        if not right:
            self._wrong.setdefault(client, deque(maxlen=TRIES)).append(time.monotonic())
            while len(self._wrong) > CLIENTS:
                self._wrong.popitem(last=False)
        return right

    def begin(self, response: Response, secure: bool) -> None:
        """Begin a session: set its cookie, which the browser sends only from this board's own pages."""
        value = self._signer.dumps(secrets.token_hex(8))
        response.set_cookie(
            COOKIE, value, max_age=HOURS * 3600, httponly=True, samesite="strict", secure=secure, path="/"
        )

    def of(self, request: Request) -> str | None:
        """The session id of a request; None for a viewer who may only read."""
        value = request.cookies.get(COOKIE)
        if self.token is None or not value:
            return None
        try:
            return str(self._signer.loads(value, max_age=HOURS * 3600))
        except BadSignature:
            return None

    def form_key(self, session: str) -> str:
        """Key in each form of a session, so that forms of other pages are refused."""
        return str(self._forms.dumps(session))

    def may_change(self, request: Request, form_key: str | None) -> bool:
        """Whether a request may change things: it has the token in its header, or a session and its form key."""
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            client = client_of(request)
            return self.is_token(given.strip(), client)
        session = self.of(request)
        if session is None or not form_key:
            return False
        try:
            return hmac.compare_digest(str(self._forms.loads(form_key, max_age=HOURS * 3600)), session)
        except BadSignature:
            return False
