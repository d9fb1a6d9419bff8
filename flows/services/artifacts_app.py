"""The artifact service as an ASGI application: `cifer_tasks.artifact_client` says what is asked, and is its only client.

It serves the coordinator's own store (``<home>/artifacts``) to the members of the network that this folder is a client of: sites,
coordinators and aggregators read and write, auditors read. Who may is the ledger's to say, which the service follows as a client of
its own; a member proves its key by signing a challenge. An upload grows in ``<home>/artifacts/.uploads`` under its sender's name,
survives restarts, and becomes an artifact when its bytes have the digest it was announced under. Nobody can make anything else of an
address.
"""

from __future__ import annotations

import hmac
import os
import re
import secrets
import shutil
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import Any, Final

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

from cifer_tasks.artifact_client import CHUNK_BYTES, SERVICE_NAME
from cifer_tasks.encryption.keys import Keystore
from cifer_tasks.errors import StorageError
from cifer_tasks.network import ADMINISTRATOR
from cifer_tasks.shelves import LocalShelf, address_of
from ledger import Ledger
from ledger.backends.processes import ProcessesLedger
from ledger.crypto import Domain, SigningKey, verify
from ledger.errors import LedgerError
from ledger.node.folder import is_client, read_client
from ledger.node.membership import copy_client
from ledger.state.entries import Identity
from ledger.transport import tls

UPLOADS: Final = ".uploads"
LIMIT_VARIABLE: Final = "CIFER_LARGEST_ARTIFACT"
LARGEST_BYTES: Final = 1024**3
CHALLENGE_SECONDS: Final = 60.0
SESSION_SECONDS: Final = 900.0
ARRIVAL_SECONDS: Final = 3.0
LOOK_SECONDS: Final = 0.1
MOST_UPLOADS: Final = 64
"""Unfinished uploads of one member."""
_WRITERS: Final = frozenset({"site", "coordinator", "aggregator"})
_READERS: Final = _WRITERS | {"auditor", "administrator"}
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_NO_NETWORK: Final = "this folder belongs to no network of validators: `cifer ledger init`, then `cifer down` and `cifer up`"


@dataclass(frozen=True, slots=True)
class Member:
    """Who a session belongs to."""

    name: str
    role: str


class Sessions:
    """Challenges and tokens, both made with a secret that ends with the process. Time is seconds of the monotonic clock."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        """now: the clock."""
        self._secret = secrets.token_bytes(32)
        self._now = now
        self._open: dict[bytes, float] = {}
        self._lock = Lock()

    def challenge(self) -> bytes:
        """32 fresh bytes that `admit` takes once, within a minute."""
        with self._lock:
            self._open = {key: until for key, until in self._open.items() if until > self._now()}
            if len(self._open) >= 10_000:
                raise HTTPException(503, "too many members are signing in; try again in a minute")
            made = secrets.token_bytes(32)
            self._open[made] = self._now() + CHALLENGE_SECONDS
            return made

    def take(self, challenge: bytes) -> bool:
        """Whether this challenge was given out in the last minute and not taken yet."""
        with self._lock:
            return self._open.pop(challenge, 0.0) > self._now()

    def token(self, member: Member) -> str:
        """What proves a session for a quarter of an hour."""
        text = f"{member.name}/{member.role}/{int(self._now() + SESSION_SECONDS)}"
        return f"{text}/{self._seal(text)}"

    def member(self, token: str) -> Member | None:
        """Whose token this is; None when it is nobody's, or has run out."""
        text, _, seal = token.rpartition("/")
        if not hmac.compare_digest(seal.encode(), self._seal(text).encode()):
            return None
        name, role, until = text.split("/")
        return Member(name, role) if int(until) > self._now() else None

    def _seal(self, text: str) -> str:
        return hmac.new(self._secret, text.encode(), sha256).hexdigest()


class Network:
    """The ledger as this service follows it: opened on first use, in a client's folder of its own."""

    def __init__(self, home: Path) -> None:
        """home: the folder whose network it is."""
        self._home = home
        self._ledger: Ledger | None = None
        self._lock = Lock()

    def identity_of(self, key: bytes) -> tuple[bytes, Identity | None]:
        """The network's identity, and whose key this is. Raises 503 when there is no network, or it does not answer."""
        try:
            with self._lock:
                if self._ledger is None:
                    if not is_client(self._home / "ledger"):
                        raise HTTPException(503, _NO_NETWORK)
                    own = self._home / "services" / "ledger"
                    if not is_client(own):
                        copy_client(self._home / "ledger", own)
                    self._ledger = ProcessesLedger.open(own)
            deadline = time.monotonic() + ARRIVAL_SECONDS
            while (found := self._ledger.state().identity_of(key)) is None and time.monotonic() < deadline:
                time.sleep(LOOK_SECONDS)  # whoever joined a moment ago may be a block ahead of this copy
            return self._ledger.network, found
        except LedgerError as error:
            raise HTTPException(503, f"the ledger does not answer: {error}") from None


class Service:
    """What the routes do. Paths hold digests only, checked before they become file names."""

    def __init__(self, home: Path, network: Network, largest_bytes: int = LARGEST_BYTES, sessions: Sessions | None = None) -> None:
        """largest_bytes: of one artifact."""
        self.shelf = LocalShelf(home / "artifacts")
        self.uploads = home / "artifacts" / UPLOADS
        self.network = network
        self.largest_bytes = largest_bytes
        self.sessions = sessions or Sessions()
        self._locks: dict[Path, Lock] = {}
        self._guard = Lock()

    async def challenge(self, _: Request) -> Response:
        """GET /challenge."""
        return Response(self.sessions.challenge(), media_type="application/octet-stream")

    async def session(self, request: Request) -> Response:
        """POST /session."""
        try:
            said = await request.json()
            key, challenge, signature = (bytes.fromhex(said[name]) for name in ("key", "challenge", "signature"))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise HTTPException(400, "expected key, challenge and signature in hex") from None
        if not self.sessions.take(challenge):
            raise HTTPException(403, "this challenge was not given out, was used, or is over a minute old; ask for another")
        network, identity = await run_in_threadpool(self.network.identity_of, key)
        if identity is None or identity.public_key != key or identity.role not in _READERS:
            raise HTTPException(403, f"key {key.hex()[:16]} is no member of this network; join it first")
        if not verify(key, Domain.ARTIFACT_SESSION, network + challenge, signature):
            raise HTTPException(403, f"the challenge is not signed by {key.hex()[:16]}")
        return PlainTextResponse(self.sessions.token(Member(identity.name, identity.role)))

    async def artifact(self, request: Request) -> Response:
        """HEAD and GET /artifacts/<digest>: only what has its digest is ever served. FileResponse answers ranges (RFC 9110, section 14)."""
        self._member(request, _READERS)
        digest = _digest(request)
        path = self.shelf.folder / address_of(digest)
        size = await run_in_threadpool(self._held, digest)
        if size < 0:
            raise HTTPException(404, f"{digest[:16]} is not here")
        headers = {"Artifact-Length": str(size)}
        if request.method == "HEAD":
            return Response(headers={**headers, "Content-Length": str(size)})
        return FileResponse(path, media_type="application/octet-stream", headers=headers)

    async def offset(self, request: Request) -> Response:
        """HEAD /uploads/<digest>."""
        path = self._upload(self._member(request, _WRITERS), _digest(request))
        return Response(headers={"Upload-Offset": str(path.stat().st_size if path.exists() else 0)})

    async def upload(self, request: Request) -> Response:
        """PUT /uploads/<digest>: 200 with the new offset, 201 when it is an artifact, 409 with the offset that it stands at."""
        member, digest = self._member(request, _WRITERS), _digest(request)
        try:
            offset, length = int(request.headers["upload-offset"]), int(request.headers["upload-length"])
        except (KeyError, ValueError):
            raise HTTPException(400, "expected Upload-Offset and Upload-Length") from None
        if not 0 <= offset <= length:
            raise HTTPException(400, f"offset {offset} is not within 0 to {length}")
        if length > self.largest_bytes:
            raise HTTPException(413, f"an artifact of {length} bytes; this service takes {self.largest_bytes}")
        chunk = bytearray()
        async for part in request.stream():
            chunk += part
            if len(chunk) > min(CHUNK_BYTES, length - offset):
                raise HTTPException(413, f"more than {min(CHUNK_BYTES, length - offset)} bytes in one request")
        return await run_in_threadpool(self._append, member, digest, offset, length, bytes(chunk))

    def _append(self, member: Member, digest: str, offset: int, length: int, chunk: bytes) -> Response:
        if self._held(digest) >= 0:
            return Response(status_code=201, headers={"Upload-Offset": str(length)})
        path = self._upload(member, digest)
        with self._alone(path):
            stands = path.stat().st_size if path.exists() else 0
            if stands != offset:
                return Response(status_code=409, headers={"Upload-Offset": str(stands)})
            self._room(member, path, length)
            try:
                with path.open("ab") as file:
                    file.write(chunk)
            except OSError as error:
                raise HTTPException(507, f"the service cannot keep it: {error.strerror}") from None
            if offset + len(chunk) < length:
                return Response(headers={"Upload-Offset": str(offset + len(chunk))})
            content = path.read_bytes()
            path.unlink()
        if sha256(content).hexdigest() != digest:
            raise HTTPException(422, f"{len(content)} bytes arrived and are not {digest[:16]}; send them again")
        try:
            self.shelf.write(address_of(digest), content)
        except StorageError as error:
            raise HTTPException(507, f"the service cannot keep it: {error}") from None
        return Response(status_code=201, headers={"Upload-Offset": str(length)})

    def _held(self, digest: str) -> int:
        """Bytes of an artifact that is here and undamaged, else -1."""
        address = address_of(digest)
        try:
            size = self.shelf.size_bytes(address)
        except FileNotFoundError:
            return -1
        return size if self.shelf.intact(address, size) else -1

    def _room(self, member: Member, path: Path, length: int) -> None:
        """Refuse a member's upload beyond what it may leave unfinished, or what the disk takes."""
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not path.exists() and sum(1 for _ in self.uploads.glob(f"{member.name}@*")) >= MOST_UPLOADS:
            raise HTTPException(429, f"{member.name} has {MOST_UPLOADS} unfinished uploads; finish them first")
        if shutil.disk_usage(path.parent).free < 2 * length:
            raise HTTPException(507, "the service's disk is full; free some space, or run `cifer artifacts gc` there")

    def _upload(self, member: Member, digest: str) -> Path:
        return self.uploads / f"{member.name}@{digest}"

    def _alone(self, path: Path) -> Lock:
        with self._guard:
            if len(self._locks) > 4096:
                self._locks = {key: lock for key, lock in self._locks.items() if lock.locked()}
            return self._locks.setdefault(path, Lock())

    def _member(self, request: Request, roles: frozenset[str]) -> Member:
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        member = self.sessions.member(token) if kind == "Bearer" and token else None
        if member is None:
            raise HTTPException(401, "no session, or one that ran out; sign in")
        if member.role not in roles:
            raise HTTPException(403, f"{member.name} is a {member.role}, which may not do this")
        return member


def application(service: Service) -> Starlette:
    """The routes."""

    async def health(_: Request) -> Response:
        return PlainTextResponse("ok")

    async def refuse(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 - what the handler is registered for
        return PlainTextResponse(error.detail, error.status_code, {"Refusal": error.detail})  # an answer to HEAD has no body

    return Starlette(
        routes=[
            Route("/health", health),
            Route("/challenge", service.challenge),
            Route("/session", service.session, methods=["POST"]),
            Route("/artifacts/{digest}", service.artifact, methods=["GET", "HEAD"]),
            Route("/uploads/{digest}", service.offset, methods=["HEAD"]),
            Route("/uploads/{digest}", service.upload, methods=["PUT"]),
        ],
        exception_handlers={HTTPException: refuse},
    )


def create() -> Any:
    """The service of this process' CIFER_HOME."""
    home = Path(os.environ["CIFER_HOME"])
    return application(Service(home, Network(home), int(os.environ.get(LIMIT_VARIABLE, LARGEST_BYTES))))


def tls_context() -> ssl.SSLContext:
    """The service's side of TLS: a certificate for ``artifacts``, made now and signed by this folder's administrator.

    Without a network, one that nobody trusts: the service then says so to whoever asks.
    """
    home = Path(os.environ["CIFER_HOME"])
    if is_client(home / "ledger"):
        client = read_client(home / "ledger")
        key, network = Keystore.open(home / "keys").signing_key(ADMINISTRATOR), client.network
    else:
        key, network = SigningKey.generate(), bytes(32)
    return serving_context(key, network)


def serving_context(administrator: SigningKey, network: bytes) -> ssl.SSLContext:
    """TLS 1.3 with a fresh key, certified for ``artifacts``; members prove themselves by `Service.session`."""
    issuer = f"{ADMINISTRATOR}-0"
    credential = tls.issue(administrator, issuer, tls.ADMINISTRATOR, network, SERVICE_NAME)
    made = tls.context(credential, [tls.authority(administrator, issuer, tls.ADMINISTRATOR, network)], server=True)
    made.verify_mode = ssl.CERT_NONE
    return made


def _digest(request: Request) -> str:
    digest = str(request.path_params["digest"])
    if not _DIGEST.fullmatch(digest):
        raise HTTPException(400, "expected 64 lower-case hex digits")
    return digest
