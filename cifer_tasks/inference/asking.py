"""Asking a server: describe, upload keys once, send ciphertexts in batches, open what comes back."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Final
from urllib.parse import urlsplit

import httpx
import msgspec
import numpy as np
import numpy.typing as npt

from cifer_tasks.errors import FailureError, UsageError
from cifer_tasks.inference.client import ClientKeys, Floats
from cifer_tasks.inference.parameters import Parameters
from cifer_tasks.inference.protocol import MOST_CIPHERTEXTS, Answer, Description, Question

BATCH: Final = 16
"""Ciphertexts per question: 13 MB at the deepest parameters."""
_TIMEOUT_SECONDS: Final = 300.0
_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, slots=True)
class Asked:
    """Results and what they cost.

    logits: float64 (rows, classes).  keys_seconds: making and uploading keys, 0 when the server had them.  encrypt, evaluate (the server's
    computation alone), answer (from sending to receiving, evaluation included), decrypt: seconds over all rows.
    """

    logits: Floats
    keys_seconds: float
    encrypt_seconds: float
    evaluate_seconds: float
    answer_seconds: float
    decrypt_seconds: float
    key_bytes: int
    sent_bytes: int
    received_bytes: int

    @property
    def seconds(self) -> float:
        """From prepared rows to results, without making and uploading keys."""
        return self.encrypt_seconds + self.answer_seconds + self.decrypt_seconds


class InferenceClient:
    """One client of one server. It makes a key pair per kind of parameters, in memory, and uploads the public half once.

    url: e.g. ``http://127.0.0.1:4210``.  http: another transport, closed with the client.
    """

    def __init__(self, url: str, http: httpx.Client | None = None) -> None:
        parsed = urlsplit(url)
        if parsed.scheme not in {"http", "https"} or not parsed.netloc:
            msg = f"{url!r} is no URL of a server; give one such as http://127.0.0.1:4210"
            raise UsageError(msg)
        # A proxy of the environment has no business between two processes of one machine.
        local = parsed.hostname in _LOOPBACK
        self._http = http or httpx.Client(base_url=url, timeout=_TIMEOUT_SECONDS, trust_env=not local)
        self._url = url
        self._keys: dict[Parameters, ClientKeys] = {}

    def __enter__(self) -> InferenceClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._http.close()

    def describe(self, name: str, version: str) -> Description:
        """A model version as the server knows it. Raises `UsageError` for one that is not there or cannot be evaluated on ciphertext."""
        response = self._send("GET", f"/v1/models/{name}/{version}")
        try:
            found = msgspec.json.decode(response.content, type=Description)
        except msgspec.MsgspecError as error:
            msg = f"{self._url} does not answer as an inference service does ({error}); correct --server"
            raise FailureError(msg) from None
        lengths = {len(found.features), len(found.mean), len(found.scale)}
        if len(lengths) != 1 or len(found.labels) < 2:
            msg = f"{self._url}: the description of {name}@{version} contradicts itself; ask whoever runs the service"
            raise FailureError(msg)
        return found

    def predict(self, model: Description, rows: npt.ArrayLike, progress: Callable[[int, int], None] = lambda done, of: None) -> Asked:
        """Logits of prepared rows (n, features), encrypted on the way there and back. progress: told ciphertexts done, and of how many.

        Raises `UsageError` for rows that cannot be encrypted, `FailureError` when the server cannot be reached or refuses, `IntegrityError`
        for results that do not open.
        """
        values = np.asarray(rows, dtype=np.float64)
        parameters = Parameters(model.levels, model.width)
        started = time.perf_counter()
        keys = self._keys.get(parameters)
        if keys is None:
            keys = self._keys[parameters] = ClientKeys(parameters)
            self._upload(keys)
        ready = time.perf_counter()
        ciphertexts = keys.encrypt(values)
        encrypted = time.perf_counter()
        results: list[bytes] = []
        evaluating = 0.0
        for start in range(0, len(ciphertexts), min(BATCH, MOST_CIPHERTEXTS)):
            answer = self._ask(model, keys, ciphertexts[start : start + BATCH])
            results += answer.ciphertexts
            evaluating += answer.evaluate_seconds
            progress(len(results), len(ciphertexts))
        answered = time.perf_counter()
        logits = keys.decrypt(tuple(results), values.shape[0], len(model.labels))
        return Asked(
            logits=logits,
            keys_seconds=ready - started,
            encrypt_seconds=encrypted - ready,
            evaluate_seconds=evaluating,
            answer_seconds=answered - encrypted,
            decrypt_seconds=time.perf_counter() - answered,
            key_bytes=len(keys.public),
            sent_bytes=sum(map(len, ciphertexts)),
            received_bytes=sum(map(len, results)),
        )

    def _upload(self, keys: ClientKeys) -> None:
        self._send("PUT", f"/v1/keys/{keys.digest}", keys.public)

    def _ask(self, model: Description, keys: ClientKeys, ciphertexts: tuple[bytes, ...]) -> Answer:
        """One question. A server that has put the keys away for others' is given them again, once."""
        path = f"/v1/models/{model.name}/{model.version}/predictions"
        body = msgspec.msgpack.encode(Question(keys.digest, ciphertexts))
        response = self._send("POST", path, body, accept=httpx.codes.CONFLICT)
        if response.status_code == httpx.codes.CONFLICT:
            self._upload(keys)
            response = self._send("POST", path, body)
        try:
            return msgspec.msgpack.decode(response.content, type=Answer)
        except msgspec.MsgspecError as error:
            msg = f"{self._url} sent no answer ({error}); is it an inference service of this version?"
            raise FailureError(msg) from None

    def _send(self, method: str, path: str, body: bytes | None = None, accept: int = httpx.codes.OK) -> httpx.Response:
        """Raises `UsageError` for what the request is to blame for, `FailureError` for the rest."""
        try:
            response = self._http.request(method, path, content=body)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason = str(error) or type(error).__name__
            msg = f"no inference service answers at {self._url} ({reason}); start it with `cifer up`, or give --server URL"
            raise FailureError(msg) from None
        if response.is_success or response.status_code == accept:
            return response
        try:
            detail = str(response.json()["detail"])
        except (ValueError, KeyError, TypeError):
            detail = f"it answered {response.status_code}"
        kind = UsageError if response.status_code in {404, 422} else FailureError
        raise kind(f"{self._url}: {detail}")
