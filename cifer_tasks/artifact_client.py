"""Cifer's artifact service as a shelf: what a site or the coordinator says to it over HTTPS.

    GET  /challenge                              32 fresh bytes, good once and for a minute
    POST /session     {key, challenge, signature} -> a token: the holder of a key that the ledger knows
    HEAD /artifacts/<digest>                     its size, if the service holds it undamaged
    GET  /artifacts/<digest>    Range            its bytes; taken up again where a broken connection ended
    HEAD /uploads/<digest>                       Upload-Offset: how much of an upload has arrived
    PUT  /uploads/<digest>      Upload-Offset, Upload-Length     more of it; complete, it is checked against its digest

The connection is TLS 1.3. The service shows a certificate that an administrator of the network signed for the name ``artifacts``; a member
proves its own key by signing the challenge (domain ``cifer/artifact-session/1``, over the network's identity and the challenge), so
no secret of a member ever reaches the service. What is read is checked against its digest by `ArtifactStore`.
"""

from __future__ import annotations

import http.client
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NoReturn
from urllib.parse import urlsplit

from ledger.crypto import Domain, SigningKey
from ledger.transport import tls

SERVICE_SCHEME: Final = "cifer+https://"
SERVICE_NAME: Final = "artifacts"
CHUNK_BYTES: Final = 4 * 1024 * 1024
TIMEOUT_SECONDS: Final = 30.0
TRIES: Final = 5
"""How often in a row a transfer may get nowhere before it is given up; a try that moved bytes starts the count again."""
_FIRST_WAIT_SECONDS: Final = 0.05
_GOOD: Final = frozenset({http.client.OK, http.client.CREATED, http.client.NOT_FOUND, http.client.CONFLICT})
"""Not found and conflict are for the caller: nothing is there, or an upload stands elsewhere than thought."""


@dataclass(frozen=True, slots=True)
class Pass:
    """Who asks, on which network, and the administrators' certificates (PEM) that vouch for the service.

    key: gives the present signing key whenever a session begins, so that one that was rotated is not asked with.
    """

    key: Callable[[], SigningKey]
    network: bytes
    authorities: tuple[bytes, ...]


class ServiceError(OSError):
    """The service refused, or cannot be reached."""


class RefusedError(ServiceError):
    """An answer that trying again does not change."""


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


class _Connection(http.client.HTTPSConnection):
    """TLS to the service itself: another member's certificate, though of the same network, is not taken for its."""

    def connect(self) -> None:
        super().connect()
        shown = tls.peer_of(self.sock)
        if (shown.name, shown.role) != (SERVICE_NAME, tls.ADMINISTRATOR):
            self.close()
            raise RefusedError(f"the other end is {shown.name}, not the network's artifact service; check the address")


class ServiceShelf:
    """A `shelves.Shelf` behind Cifer's artifact service. Threads take turns on one connection."""

    def __init__(self, url: str, access: Pass) -> None:
        """url: ``cifer+https://host:port``. Nothing is sent before the first call."""
        self.url = url.rstrip("/")
        parts = urlsplit(self.url.removeprefix("cifer+"))
        self._host, self._port = parts.hostname or "", parts.port or 443
        self._access = access
        self._turn = threading.RLock()
        self._connection: _Connection | None = None
        self._token = ""

    def read(self, address: str) -> bytes:
        """See `Shelf`. A connection that breaks is opened again, and only the rest asked for."""
        found = bytearray()
        total: int | None = None
        with self._turn:
            failures = 0
            while total is None or len(found) < total:
                before = len(found)
                try:
                    total = self._read_on(_digest(address), found)
                except (OSError, http.client.HTTPException) as error:
                    failures = 0 if len(found) > before else failures + 1
                    self._again(error, failures)
        return bytes(found)

    def size_bytes(self, address: str) -> int:
        """See `Shelf`."""
        answer = self._ask("HEAD", f"/artifacts/{_digest(address)}")
        if answer.status == http.client.NOT_FOUND:
            raise FileNotFoundError(address)
        return int(answer.headers["artifact-length"])

    def intact(self, address: str, size_bytes: int) -> bool:
        """See `Shelf`: the service reads and checks before it says that it holds something."""
        try:
            return self.size_bytes(address) == size_bytes
        except FileNotFoundError:
            return False

    def write(self, address: str, content: bytes) -> None:
        """See `Shelf`. Goes on where an earlier, interrupted upload of the same bytes by the same member ended."""
        path, offset, failures = f"/uploads/{_digest(address)}", -1, 0
        with self._turn:
            while True:
                try:
                    if offset < 0:
                        offset = int(self._once("HEAD", path).headers["upload-offset"])
                    sizes = {"Upload-Offset": str(offset), "Upload-Length": str(len(content))}
                    answer = self._once("PUT", path, content[offset : offset + CHUNK_BYTES], sizes)
                except (OSError, http.client.HTTPException) as error:
                    failures, offset = failures + 1, -1
                    self._again(error, failures)
                    continue
                if answer.status == http.client.CREATED:
                    return
                failures, offset = 0, int(answer.headers["upload-offset"])

    def held(self) -> Iterator[tuple[str, float]]:
        """Not offered: the service's own machine collects its garbage. Raises `ServiceError`."""
        self._elsewhere()

    def remove(self, address: str) -> None:
        """Not offered, as `held`."""
        self._elsewhere()

    def close(self) -> None:
        """Let go of the connection; the next call opens another."""
        with self._turn:
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    # ------------------------------------------------------------------------------------------------- internals

    def _read_on(self, digest: str, found: bytearray) -> int:
        """Append what comes after `found`; returns the whole artifact's size."""
        response = self._send("GET", f"/artifacts/{digest}", {"Range": f"bytes={len(found)}-"} if found else {})
        if response.status == http.client.NOT_FOUND:
            response.read()
            raise FileNotFoundError(digest)
        if response.status not in {http.client.OK, http.client.PARTIAL_CONTENT}:
            self._refuse(_answer(response))
        total = int(response.headers["artifact-length"])
        while chunk := response.read(CHUNK_BYTES):
            found += chunk
        if len(found) < total:
            raise http.client.IncompleteRead(b"", total - len(found))
        return total

    def _ask(self, method: str, path: str) -> _Answer:
        """One request without a body, tried again while there is no answer."""
        failures = 0
        with self._turn:
            while True:
                try:
                    return self._once(method, path)
                except (OSError, http.client.HTTPException) as error:
                    failures += 1
                    self._again(error, failures)

    def _once(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> _Answer:
        response = self._send(method, path, headers or {}, body)
        answer = _answer(response)
        if answer.status not in _GOOD:
            self._refuse(answer)
        return answer

    def _send(self, method: str, path: str, headers: Mapping[str, str], body: bytes = b"") -> http.client.HTTPResponse:
        """One request with a session's token; a token that ran out is replaced once."""
        if not self._token:
            self._sign_in()
        response = self._raw(method, path, {**headers, "Authorization": f"Bearer {self._token}"}, body)
        if response.status == http.client.UNAUTHORIZED:
            response.read()
            self._sign_in()
            response = self._raw(method, path, {**headers, "Authorization": f"Bearer {self._token}"}, body)
        return response

    def _sign_in(self) -> None:
        asked = _answer(self._raw("GET", "/challenge", {}))
        if asked.status != http.client.OK:
            self._refuse(asked)
        challenge = asked.body
        key = self._access.key()
        signature = key.sign(Domain.ARTIFACT_SESSION, self._access.network + challenge)
        said = {"key": key.public.hex(), "challenge": challenge.hex(), "signature": signature.hex()}
        answer = _answer(self._raw("POST", "/session", {"Content-Type": "application/json"}, json.dumps(said).encode()))
        if answer.status != http.client.OK:
            self._refuse(answer)
        self._token = answer.body.decode("ascii")

    def _raw(self, method: str, path: str, headers: Mapping[str, str], body: bytes = b"") -> http.client.HTTPResponse:
        if self._connection is None:
            self._connection = _Connection(self._host, self._port, timeout=TIMEOUT_SECONDS, context=_context(self._access.authorities))
        self._connection.request(method, path, body=body or None, headers=dict(headers))
        return self._connection.getresponse()

    def _again(self, error: Exception, failures: int) -> None:
        """Wait a little before another try, or give up. Refusals and what is not there are not tried again."""
        self.close()
        if isinstance(error, FileNotFoundError | RefusedError):
            raise error
        if failures >= TRIES:
            raise ServiceError(f"no answer from the artifact service ({type(error).__name__}: {error}); check that it runs") from None
        time.sleep(_FIRST_WAIT_SECONDS * 2 ** max(failures - 1, 0))

    def _refuse(self, answer: _Answer) -> NoReturn:
        self.close()
        text = answer.headers.get("refusal", "")[:300]
        raise RefusedError(text or f"the artifact service answered {answer.status}")

    def _elsewhere(self) -> NoReturn:
        raise RefusedError("the artifact service's own machine lists and removes artifacts; run `cifer artifacts gc` there")


def _answer(response: http.client.HTTPResponse) -> _Answer:
    return _Answer(response.status, {key.lower(): value for key, value in response.getheaders()}, response.read())


def _digest(address: str) -> str:
    return address.replace("/", "")


def _context(authorities: tuple[bytes, ...]) -> ssl.SSLContext:
    """TLS 1.3 to a server that one of these certificate authorities vouches for. Its name is checked after the handshake."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.check_hostname = False  # names are the certificates' own, not those of hosts
    made.load_verify_locations(cadata="".join(pem.decode("ascii") for pem in authorities))
    return made
