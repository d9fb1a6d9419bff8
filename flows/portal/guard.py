"""What stands before every request: whose server this is, how often somebody may ask, and what a browser is told about the answer.

Pages come with a content security policy (CSP Level 3) that lets a browser load and run what this server sent as a file, and nothing
else. The Host header is checked, so that a page elsewhere cannot reach this server under a name of its own (DNS rebinding), and whatever
changes something has to come from these pages themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flows.access import RateLimit
from flows.access.store import TOKEN

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS: Final[Mapping[str, str]] = {
    "content-security-policy": POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
LOOPBACK: Final = frozenset({"127.0.0.1", "localhost"})
MOST_URL_BYTES: Final = 4096
_SAFE: Final = frozenset({"GET", "HEAD"})


class Guard:
    """ASGI middleware, outermost, so that every answer passes it."""

    def __init__(self, application: ASGIApp, hosts: frozenset[str] = LOOPBACK, limit: RateLimit | None = None) -> None:
        """hosts: names this server answers to.  limit: requests an address may send."""
        self.application = application
        self.hosts = hosts
        self.limit = limit or RateLimit(300, 30)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.application(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                kept = [(name, value) for name, value in message.get("headers", ()) if name.decode().lower() not in HEADERS]
                if not any(name.lower() == b"cache-control" for name, _ in kept):
                    own.append((b"cache-control", b"no-store"))
                message["headers"] = [*kept, *own]
            await send(message)

        refused = self._refusal(scope)
        await (refused or self.application)(scope, receive, guarded)

    def _refusal(self, scope: Scope) -> PlainTextResponse | None:
        headers = Headers(scope=scope)
        address = (scope.get("client") or ("", 0))[0]
        wait = self.limit.wait(address)
        if wait:
            return PlainTextResponse("too many requests from this address\n", 429, {"Retry-After": str(wait)})
        host = urlsplit(f"//{headers.get('host', '')}").hostname
        if host not in self.hosts:
            return PlainTextResponse("this server does not answer to that name\n", 421)
        url = scope["path"].encode() + b"?" + scope["query_string"]
        if len(url) > MOST_URL_BYTES:
            return PlainTextResponse("that address is too long\n", 414)
        if TOKEN.search(unquote(url.decode("latin-1"))):
            message = "a token does not belong in an address, which is kept and passed on: revoke it, and grant another\n"
            return PlainTextResponse(message, 400)
        if scope["method"] not in _SAFE and not _own(headers):
            return PlainTextResponse("this does not come from a page of this server\n", 403)
        return None


def _own(headers: Headers) -> bool:
    """Whether a request that may change something comes from this server's own pages, or from a program that sends its token itself."""
    origin = headers.get("origin")
    if origin is not None:
        return urlsplit(origin).netloc == headers.get("host")
    return headers.get("authorization") is not None and headers.get("sec-fetch-site") in {None, "none"}


def problem(status: int, text: str) -> dict[str, Any]:
    """What an error page shows."""
    titles = {401: "Log in first", 403: "Not for this role", 404: "Not found", 429: "Too many requests", 503: "Not now"}
    return {"status": status, "heading": titles.get(status, "Something is wrong"), "text": text}
