"""The portal as an ASGI application: pages, the lineage API, log-in and log-out, all of them behind `flows.portal.guard`."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, quote, urlencode

from fastapi import FastAPI, HTTPException, Request, Response
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse
from starlette.routing import Route
from starlette.staticfiles import StaticFiles

from cifer_tasks.errors import AccessError, CiferError
from cifer_tasks.logs import said
from flows.access import Access, Grant, Names, RateLimit, Right
from flows.portal.asked import SITE_LEVEL, Asked, Page
from flows.portal.guard import LOOPBACK, Guard, problem
from flows.portal.live import LiveRecord
from flows.portal.metrics import CONTENT_TYPE, Exposition
from flows.portal.pages import PAGES
from flows.producers import Producer
from flows.services.lineage_api import router
from ledger import LedgerError, LockedError, NotOnRecordError, State, UnavailableError
from ledger.errors import PrunedError
from ledger.state.entries import SITE, Identity

COOKIE: Final = "cifer_session"
MOST_FORM_BYTES: Final = 4096
_BEARER: Final = "Bearer "


def create() -> Any:
    """The portal of the folder that CIFER_HOME names, as `cifer up` starts it."""
    return Portal(Path(os.environ["CIFER_HOME"])).application()


class Portal:
    """One folder's portal: record, tokens, and how often each of them may ask."""

    def __init__(self, home: Path, access: Access | None = None) -> None:
        """home: CIFER_HOME. Raises `StorageError` when tokens cannot be kept there."""
        self.home = home
        self.access = access or Access(home)
        self.record = LiveRecord(home)
        self.exposition = Exposition()
        self.requests = RateLimit(120, 10)
        self.guesses = RateLimit(10, 1 / 6)
        self._verifying = threading.Lock()
        self._pages = Environment(
            loader=PackageLoader("flows.portal"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        self._pages.filters["query"] = lambda value: quote(str(value), safe="")

    def application(self, hosts: frozenset[str] = LOOPBACK) -> Guard:
        """The whole application; bind it to 127.0.0.1. hosts: the names it answers to."""
        app = FastAPI(title="Cifer lineage", version="1", docs_url=None, redoc_url=None, openapi_url="/api/v1/openapi.json")
        for page in PAGES:
            app.router.routes.append(Route(page.path, self._endpoint(page), methods=[page.method]))
        app.router.routes.append(Route("/login", self._log_in, methods=["GET", "POST"]))
        app.router.routes.append(Route("/logout", self._log_out, methods=["POST"]))
        app.router.routes.append(Route("/metrics", self._metrics))
        app.router.routes.append(Route("/health", lambda _: PlainTextResponse("ok\n")))
        app.mount("/static", StaticFiles(packages=[("flows.portal", "static")]))
        app.include_router(router(lambda: self.record.now()[1], authorise=self._authorise, producer=self._producer))
        app.add_exception_handler(StarletteHTTPException, self._http_failure)
        app.add_exception_handler(AccessError, self._refused)
        app.add_exception_handler(CiferError, self._failed)
        app.add_exception_handler(LedgerError, self._failed)
        return Guard(app, hosts)

    # ------------------------------------------------------------------------------------------------------------- pages

    def _endpoint(self, page: Page) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            sent = dict(request.query_params) if page.method == "GET" else await _form(request)
            return await run_in_threadpool(self._answer, page, request, {**sent, **request.path_params})

        return endpoint

    def _answer(self, page: Page, request: Request, sent: dict[str, str]) -> Response:
        grant = self._grant(request)
        if grant.rights.isdisjoint(page.rights):
            return self._problem(request, 403, f"a token of role {grant.role} does not open this page", grant)
        if page.site_level and not grant.rights.isdisjoint(SITE_LEVEL):
            self.access.record(grant, _what(request))
        ledger, store = self.record.now()
        state = ledger.state()
        names = self._names(grant, state)
        try:
            words = {name: names.find(text) for name, text in sent.items()}
            asked = Asked(self.home, self.access, grant, names, words, ledger, store, state)
            found = self._one_at_a_time(page, asked)
            if isinstance(found, bytes):
                return Response(found, media_type="application/octet-stream", headers={"Content-Disposition": "attachment"})
            shown = names.hide(found)
        except (LedgerError, CiferError) as error:
            return self._failure(request, error, grant, names)
        if not page.template:
            return JSONResponse(shown)
        return self._page(page.template, grant, {"title": page.title, **shown})

    def _metrics(self, request: Request) -> Response:
        """Totals, which every role may see; Prometheus sends its token itself."""
        grant = self._grant(request)
        ledger, store = self.record.now()
        text = self.exposition.text(ledger, store)
        return Response(self._names(grant, ledger.state()).hide(text), media_type=CONTENT_TYPE)

    def _one_at_a_time(self, page: Page, asked: Asked) -> dict[str, Any] | bytes:
        """A page that reads the whole chain is made for one reader at a time."""
        if not page.costly:
            return page.answer(asked)
        if not self._verifying.acquire(blocking=False):
            raise UnavailableError("somebody else's verification is under way: try again when it is done")
        try:
            return page.answer(asked)
        finally:
            self._verifying.release()

    def _names(self, grant: Grant, state: State) -> Names:
        sites = (one.name for one in state.all(Identity) if one.role == SITE)
        hidden = () if Right.NAMES in grant.rights else (name for name in sites if name != grant.site)
        return Names(hidden, self.access.secret, state.network)

    def _page(self, template: str, grant: Grant | None, shown: dict[str, Any], status: int = 200) -> Response:
        rights = sorted(grant.rights) if grant else []
        viewer = {"name": grant.name, "role": str(grant.role), "rights": rights, "site": grant.site} if grant else None
        return HTMLResponse(self._pages.get_template(template).render(viewer=viewer, **shown), status)

    # ------------------------------------------------------------------------------------------------------ who is asking

    def _grant(self, request: Request) -> Grant:
        """Whose request it is. Raises `AccessError`, and `HTTPException` 429 for too many of them."""
        address = request.client.host if request.client else ""
        header, session = request.headers.get("authorization", ""), request.cookies.get(COOKIE, "")
        if not (header or session):
            raise AccessError("log in with a token: cifer access grant NAME --role auditor")
        try:
            grant = self.access.holder(header.removeprefix(_BEARER)) if header else self.access.visitor(session)
        except AccessError:
            self._slow_down(self.guesses, address)
            raise
        self._slow_down(self.requests, grant.id)
        return grant

    @staticmethod
    def _slow_down(limit: RateLimit, key: str) -> None:
        wait = limit.wait(key)
        if wait:
            raise HTTPException(429, "too many requests; try again later", {"Retry-After": str(wait)})

    def _authorise(self, request: Request) -> None:
        """The lineage API answers with what was signed, names and all: for those who may see that, and recorded."""
        try:
            grant = self._grant(request)
            if Right.RAW not in grant.rights:
                raise HTTPException(403, f"a token of role {grant.role} does not open the lineage API")
            self.access.record(grant, _what(request))
        except AccessError as error:
            raise HTTPException(401, str(error), {"WWW-Authenticate": "Bearer"}) from None

    def _producer(self, request: Request) -> Producer:
        """Whose events a request posts: by a token that stands for a producer, and never by a browser's session."""
        try:
            if not request.headers.get("authorization", ""):
                raise AccessError("send a producer's token: Authorization: Bearer TOKEN")
            grant = self._grant(request)
        except AccessError as error:
            raise HTTPException(401, str(error), {"WWW-Authenticate": "Bearer"}) from None
        if Right.EVENTS not in grant.rights:
            raise HTTPException(403, f"a token of role {grant.role} posts no events: cifer access grant NAME --role producer")
        return Producer(self.home, grant.name)

    async def _log_in(self, request: Request) -> Response:
        then = request.query_params.get("next", "/")
        if request.method == "GET":
            return self._page("login.html", None, {"title": "Log in", "then": _local(then), "refused": ""})
        form = await _form(request)
        then = _local(form.get("next", "/"))
        self._slow_down(self.guesses, request.client.host if request.client else "")
        try:
            session = await run_in_threadpool(self.access.log_in, form.get("token", "").strip())
        except AccessError as error:
            return self._page("login.html", None, {"title": "Log in", "then": then, "refused": str(error)}, 401)
        answer = RedirectResponse(then, 303)
        answer.set_cookie(COOKIE, session, httponly=True, samesite="strict", secure=request.url.scheme == "https", path="/")
        return answer

    async def _log_out(self, request: Request) -> Response:
        await run_in_threadpool(self.access.log_out, request.cookies.get(COOKIE, ""))
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
        return answer

    # ----------------------------------------------------------------------------------------------------------- failures

    def _problem(self, request: Request, status: int, text: str, grant: Grant | None = None, wait: str = "") -> Response:
        headers = {"Retry-After": wait} if wait else {}
        if "text/html" not in request.headers.get("accept", "") and "*/*" not in request.headers.get("accept", "*/*"):
            return JSONResponse({"code": status, "message": text}, status, headers)
        page = self._page("problem.html", grant, {"title": problem(status, text)["heading"], **problem(status, text)}, status)
        page.headers.update(headers)
        return page

    def _failure(self, request: Request, error: Exception, grant: Grant, names: Names) -> Response:
        """An error as a page: what it says may name sites, which is hidden as in any other text."""
        status = (
            404 if isinstance(error, NotOnRecordError | PrunedError) else 503 if isinstance(error, UnavailableError | LockedError) else 500
        )
        return self._problem(request, status, names.hide(str(error)), grant, "5" if status == 503 else "")

    def _refused(self, request: Request, error: Exception) -> Response:
        if request.method == "GET" and "text/html" in request.headers.get("accept", ""):
            return RedirectResponse(f"/login?{urlencode({'next': _what(request)})}", 303)
        answer = self._problem(request, 401, str(error))
        answer.headers["WWW-Authenticate"] = "Bearer"
        return answer

    def _failed(self, request: Request, error: Exception) -> Response:
        """An error before it was known who may see what: said in general, in full in this server's log."""
        said(logging.ERROR, f"{type(error).__name__}: {error}")
        missing = isinstance(error, NotOnRecordError | LockedError | UnavailableError) or not (self.home / "ledger").exists()
        text = (
            "there is no ledger here yet: cifer run configs/quickstart.yaml"
            if not (self.home / "ledger").exists()
            else ("the record cannot be read now; the portal's log says why")
        )
        return self._problem(request, 503 if missing else 500, text, None, "5")

    def _http_failure(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, StarletteHTTPException)  # noqa: S101 - registered for it alone
        if request.url.path.startswith("/api/"):
            return JSONResponse({"code": error.status_code, "message": error.detail}, error.status_code, error.headers)
        answer = self._problem(request, error.status_code, error.detail)
        answer.headers.update(error.headers or {})
        return answer


def _what(request: Request) -> str:
    query = request.url.query
    return request.url.path + (f"?{query}" if query else "")


def _local(then: str) -> str:
    """Where to go after logging in: a page here, never another site."""
    return then if then.startswith("/") and not then.startswith(("//", "/\\", "/login", "/logout")) else "/"


async def _form(request: Request) -> dict[str, str]:
    """The fields of a small form. Raises `HTTPException` 413."""
    data = b""
    async for part in request.stream():
        data += part
        if len(data) > MOST_FORM_BYTES:
            raise HTTPException(413, "that form is too large")
    try:
        return {name: values[-1] for name, values in parse_qs(data.decode("utf-8", "replace"), max_num_fields=20).items()}
    except ValueError:
        raise HTTPException(400, "that form has too many fields") from None
