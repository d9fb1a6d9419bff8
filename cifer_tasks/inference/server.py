"""Encrypted inference as an ASGI application: it holds registered models and public keys of clients, and never sees a row or a result.

Whoever reaches it may ask any registered model any number of questions. It listens on the loopback interface; put it behind a proxy with
authentication before others reach it.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
from fastapi import FastAPI, HTTPException, Request, Response

from cifer_tasks.errors import CiferError, IntegrityError, UsageError
from cifer_tasks.inference.client import read_keys
from cifer_tasks.inference.evaluator import Evaluator
from cifer_tasks.inference.networks import error_bound, network_of
from cifer_tasks.inference.parameters import Parameters
from cifer_tasks.inference.protocol import (
    MOST_CIPHERTEXTS,
    MOST_KEY_BYTES,
    MOST_QUESTION_BYTES,
    PREDICT_PATH,
    Answer,
    Description,
    Question,
)

if TYPE_CHECKING:
    from cifer_tasks.tracking.registry import LoadedModel

KEY_CACHE_BYTES: Final = 256 * 1024 * 1024
"""Of uploaded keys; those used longest ago go first."""
MODEL_CACHE: Final = 4
MOST_WAITING: Final = 16
ERROR_AT: Final = 20.0

Load = Callable[[str, str], "LoadedModel"]
"""The registered model of a name and an alias or version. Raises `UsageError` when there is none."""


@dataclass(frozen=True, slots=True)
class _Keys:
    parameters: Parameters
    galois: Any
    relinearisation: Any
    size_bytes: int


class Service:
    """Models and keys, each kept in a bounded cache. Used by one thread at a time."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._keys: OrderedDict[str, _Keys] = OrderedDict()
        self._models: OrderedDict[tuple[str, int], tuple[Evaluator, Description]] = OrderedDict()

    def describe(self, name: str, version: str) -> Description:
        """The model version. Raises `HTTPException`: 404 when there is none, 422 when it cannot be evaluated on ciphertext."""
        return self._model(name, version)[1]

    def keep(self, digest: str, data: bytes) -> None:
        """Check and keep a client's evaluation keys. Raises `HTTPException` (400)."""
        if hashlib.sha256(data).hexdigest() != digest:
            raise HTTPException(400, f"the body's SHA-256 is not {digest[:64]}: upload keys under their own digest")
        if digest not in self._keys:
            self._keys[digest] = _Keys(*read_keys(data), len(data))
        self._keys.move_to_end(digest)
        while sum(keys.size_bytes for keys in self._keys.values()) > KEY_CACHE_BYTES:
            self._keys.popitem(last=False)

    def predict(self, name: str, version: str, question: Question) -> Answer:
        """Evaluate every ciphertext. Raises `HTTPException`: 409 when the keys are not here, 400 for what does not fit."""
        if not 1 <= len(question.ciphertexts) <= MOST_CIPHERTEXTS:
            raise HTTPException(413, f"{len(question.ciphertexts)} ciphertexts; send 1 to {MOST_CIPHERTEXTS} at a time")
        evaluator, _ = self._model(name, version)
        keys = self._keys.get(question.keys)
        if keys is None:
            raise HTTPException(409, f"no evaluation keys {question.keys[:64]!r} here; upload them, and ask again")
        self._keys.move_to_end(question.keys)
        if keys.parameters != evaluator.parameters:
            raise HTTPException(400, f"the keys are for {keys.parameters}, {name} needs {evaluator.parameters}")
        started = time.perf_counter()
        results = tuple(evaluator.evaluate(data, keys.galois, keys.relinearisation) for data in question.ciphertexts)
        return Answer(results, time.perf_counter() - started)

    def _model(self, name: str, version: str) -> tuple[Evaluator, Description]:
        key = (name, int(version)) if version.isdecimal() and len(version) < 10 else None
        if key is None or key not in self._models:
            try:
                loaded = self._load(name, version)
            except UsageError:
                raise HTTPException(404, f"{name}@{version}: no such registered model") from None
            key = (loaded.name, loaded.version)
            if key not in self._models:
                self._models[key] = _ready(loaded)
        self._models.move_to_end(key)
        while len(self._models) > MODEL_CACHE:
            self._models.popitem(last=False)
        return self._models[key]


def _ready(loaded: LoadedModel) -> tuple[Evaluator, Description]:
    prepared, title = loaded.preprocessing, f"{loaded.name} version {loaded.version}"
    if prepared is None:
        raise HTTPException(422, f"{title} was registered without the preprocessing of its rows; train it again")
    try:
        network = network_of(loaded.module, len(prepared.features), title)
        evaluator = Evaluator(network)
    except UsageError as error:
        raise HTTPException(422, str(error)) from None
    return evaluator, Description(
        name=loaded.name,
        version=loaded.version,
        digest=loaded.digest,
        levels=evaluator.parameters.levels,
        width=evaluator.parameters.width,
        layers=network.layers,
        features=prepared.features,
        mean=prepared.mean,
        scale=prepared.scale,
        target=prepared.target,
        labels=prepared.labels,
        error=error_bound(network, evaluator.parameters, ERROR_AT),
        error_at=ERROR_AT,
    )


def create() -> FastAPI:
    """The application over the registry of the project in ``CIFER_PROJECT`` (the current folder when unset)."""
    project = Path(os.environ.get("CIFER_PROJECT", ".")).resolve()
    # Where a user's own model modules lie; at the end, so that nothing there can take the place of an installed package.
    sys.path.append(str(project))

    def load(name: str, version: str) -> LoadedModel:
        from cifer_tasks.tracking import load_registered

        return load_registered(project, name, version)

    return application(load)


def application(load: Load) -> FastAPI:
    """The application over any source of models. Computation takes turns in one thread, so that health checks are answered meanwhile."""
    from anyio import CapacityLimiter, to_thread

    service, turns = Service(load), CapacityLimiter(1)
    app = FastAPI(title="Cifer encrypted inference", version="1", docs_url=None, redoc_url=None, openapi_url=None)

    async def in_turn(work: Callable[[], Any]) -> Any:
        if turns.statistics().tasks_waiting >= MOST_WAITING:
            raise HTTPException(503, "too many questions at once; ask again", {"Retry-After": "2"})
        try:
            return await to_thread.run_sync(work, limiter=turns)
        except IntegrityError as error:
            raise HTTPException(400, str(error)) from None
        except CiferError as error:
            raise HTTPException(500, str(error)) from None

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/v1/models/{name}/{version}")
    async def describe(name: str, version: str) -> Response:
        found = await in_turn(lambda: service.describe(name, version))
        return Response(msgspec.json.encode(found), media_type="application/json")

    @app.put("/v1/keys/{digest}", status_code=204)
    async def keep(digest: str, request: Request) -> None:
        data = await _body(request, MOST_KEY_BYTES)
        await in_turn(lambda: service.keep(digest, data))

    @app.post(PREDICT_PATH)
    async def predict(name: str, version: str, request: Request) -> Response:
        data = await _body(request, MOST_QUESTION_BYTES)
        try:
            question = msgspec.msgpack.decode(data, type=Question)
        except msgspec.MsgspecError as error:
            raise HTTPException(422, f"the body is no question: {error}") from None
        answer = await in_turn(lambda: service.predict(name, version, question))
        return Response(msgspec.msgpack.encode(answer), media_type="application/msgpack")

    return app


async def _body(request: Request, most_bytes: int) -> bytes:
    """The body, read no further than is allowed. Raises `HTTPException` (413)."""
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > most_bytes:
            raise HTTPException(413, f"a body of more than {most_bytes} bytes; send less at a time")
    return bytes(data)
