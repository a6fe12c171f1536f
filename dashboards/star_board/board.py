"""What all pages share: the model, caches, sessions, templates."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote, urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import Response

from star.errors import NotFoundError
from star.ledger.states import Job
from star.rundir import Home
from star.spec.builtin import builtin_stages
from star.spec.graph import file_of
from star.words import duration, number
from star_board import __name__ as package
from star_board.curves import Curves
from star_board.door import Sessions
from star_board.live import Live, Pages, answer
from star_board.model import Group, Model
from star_board.results import LAG, Shelf
from star_board.settings import Settings

K = TypeVar("K")
T = TypeVar("T")
ROWS = 100
"""Most rows of a list on one page."""


class Drawn(NamedTuple):
    """A file that a figure is drawn from."""

    key: str
    """Key of the job that made the file."""
    file: str


class Board:
    """The board of one home: what its pages share."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.home = settings, Home(settings.home)
        self.model = Model(self.home)
        self.live, self.pages, self.curves = Live(self.model), Pages(), Curves()
        self.shelf, self.sessions = Shelf(self.model, settings.tracking_uri), Sessions(settings.token)
        self.templates = Environment(loader=PackageLoader(package), autoescape=True, undefined=StrictUndefined)
        self.templates.trim_blocks = self.templates.lstrip_blocks = True
        self.templates.filters |= {"duration": duration, "number": number, "moment": moment, "at": address}
        self.templates.globals |= {
            "settings": settings,
            "stages": list(builtin_stages()),
            "now": time.time,
            "ident": ident,
        }

    def page(
        self, request: Request, template: str, make: Callable[[], Mapping[str, Any]], numbers: bool = False
    ) -> Response:
        """Render a template with what `make` returns, once for each version of the model and viewer's rights.

        Args:
            numbers: whether the page shows tracked numbers, which arrive some seconds after the ledger's changes.
        """
        self.live.look()
        session = self.sessions.of(request)
        path = own_path(request)
        version = (self.model.version, int(time.monotonic() / LAG) if numbers else 0)

        def made() -> str:
            about = {"path": path, "signed_in": session is not None, "trouble": self.live.trouble}
            return self.templates.get_template(template).render(about | dict(make()))

        return answer(request, self.pages.get(f"{session is not None} {path}", version, made))

    def fresh(self, request: Request, template: str, status: int = 200, **context: Any) -> Response:
        """Render a template for one viewer, without the cache: a page with a form, or of an error."""
        session = self.sessions.of(request)
        about = {
            "path": own_path(request),
            "signed_in": session is not None,
            "trouble": self.live.trouble,
            "form_key": self.sessions.form_key(session) if session else "",
        }
        text = self.templates.get_template(template).render(about | context)
        return Response(text, status, media_type="text/html")

    def group(self, request: Request) -> Group:
        """The experiment that a request's path names.

        Raises:
            NotFoundError: there is no such experiment.
        """
        name, profile = request.path_params["name"], request.path_params["profile"]
        return self._known(
            lambda: self.model.groups, (name, profile), f"experiment {name[:60]} at profile {profile[:60]}"
        )

    def job(self, key: str) -> Job:
        """The job with this key.

        Raises:
            NotFoundError: there is no such job.
        """
        return self._known(lambda: self.model.jobs, key, f"job {key[:40]}")

    def drawn_from(self, stages: Mapping[str, str], figure: str) -> Drawn | None:
        """The file that a kind of figure (`samples`, `attention`) is drawn from; None if the run has not made it.

        Args:
            stages: stage -> key of the run's jobs.
        """
        found = file_of(builtin_stages(), figure)
        if found is None or found[0] not in stages:
            return None
        stage, name = found
        return Drawn(stages[stage], name) if (self.home.job(stage, stages[stage]).out / name).exists() else None

    def _known(self, known: Callable[[], Mapping[K, T]], key: K, what: str) -> T:
        self.live.look(again=key not in known() and self.live.trouble is None)
        found = known().get(key)
        if found is None:
            raise NotFoundError(f"There is no {what} in this home.")
        return found


def address(*parts: str, **query: object) -> str:
    """A URL path of the quoted parts, with a query of the values that are not None or empty."""
    path = "/" + "/".join(quote(part, safe="") for part in parts)
    pairs = [(k, v) for k, v in query.items() if v not in (None, "", [])]
    return f"{path}?{urlencode(pairs, doseq=True)}" if pairs else path


def own_path(request: Request) -> str:
    """A request's path and query, quoted as they stand in an address."""
    path = quote(request.scope["path"])  # `url.path` has some characters quoted already
    return f"{path}?{request.url.query}" if request.url.query else path


def ident(*parts: object) -> str:
    """An element's id made of what it shows, so that an update finds it again wherever it stands then."""
    return hashlib.blake2s("\0".join(map(str, parts)).encode(), digest_size=8).hexdigest()


def moment(seconds: float | None) -> str:
    """A time (seconds since 1970) in ISO 8601, UTC, which browsers show in their own zone; empty for None."""
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
