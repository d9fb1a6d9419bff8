"""The service over HTTP, and a client of it: what is refused, what is kept, and what never gets there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st

from cifer_tasks.data.tables import Preprocessing
from cifer_tasks.errors import DataError, FailureError, UsageError
from cifer_tasks.inference import asking, server
from cifer_tasks.inference.asking import InferenceClient
from cifer_tasks.inference.client import ClientKeys
from cifer_tasks.inference.parameters import Parameters
from cifer_tasks.inference.protocol import MOST_CIPHERTEXTS, Question
from cifer_tasks.inference.rows import read_rows
from cifer_tasks.inference.server import application
from cifer_tasks.learning.models import MLP, PolynomialMLP
from cifer_tasks.tracking.registry import LoadedModel

PREPARED = Preprocessing(("age", "dose", "pulse"), (40.0, 1.0, 60.0), (10.0, 0.5, 8.0), "ill", ("no", "yes"))


def registered(name: str, version: str) -> LoadedModel:
    """A registry of two models: `lab` can be evaluated, `relu` cannot."""
    torch.manual_seed(2)
    modules: dict[str, Any] = {"lab": PolynomialMLP(3, 2, hidden=(4,)), "relu": MLP(3, 2)}
    if name not in modules or version not in {"champion", "1"}:
        msg = "no such registered model under /somewhere"
        raise UsageError(msg)
    return LoadedModel(name, 1, "ab" * 32, b"", modules[name].eval(), {}, PREPARED)


@pytest.fixture
def http() -> Iterator[Any]:
    """The service in this process; what was sent is in `sent`."""
    with TestClient(application(registered), base_url="http://127.0.0.1:4210") as client:
        yield client


@pytest.fixture
def spoken(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Every body that a client sends."""
    bodies: list[bytes] = []
    plain = InferenceClient._send

    def listening(self: InferenceClient, method: str, path: str, body: bytes | None = None, accept: int = 200) -> Any:
        bodies.append(body or b"")
        return plain(self, method, path, body, accept)

    monkeypatch.setattr(InferenceClient, "_send", listening)
    return bodies


def test_a_client_gets_what_the_model_gives(http: Any, spoken: list[bytes]) -> None:
    """Logits within the stated error of the module's own; keys travel once for two questions; no row is among what was sent."""
    client = InferenceClient("http://127.0.0.1:4210", http)
    model = client.describe("lab", "champion")
    rows = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    told: list[tuple[int, int]] = []
    asked = client.predict(model, rows, lambda done, of: told.append((done, of)))
    again = client.predict(model, rows[:2])
    with torch.no_grad():
        expected = registered("lab", "1").module(torch.from_numpy(rows)).double().numpy()
    assert np.abs(asked.logits - expected).max() <= model.error
    assert np.abs(again.logits - expected[:2]).max() <= model.error
    assert (model.version, model.labels, model.layers) == (1, ("no", "yes"), "3 -> 4 -> degree 2 -> 2")
    assert told == [(1, 1)]
    assert sum(len(body) == asked.key_bytes for body in spoken) == 1
    assert not [body for body in spoken if rows[0].tobytes() in body or rows[0].astype(float).tobytes() in body]


def test_keys_that_were_put_away_are_sent_again(http: Any, spoken: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for one client's keys, two clients in turns both get answers: the server says 409, and the keys travel again."""
    monkeypatch.setattr(server, "KEY_CACHE_BYTES", 6_000_000)
    clients = [InferenceClient("http://127.0.0.1:4210", http) for _ in range(2)]
    model = clients[0].describe("lab", "1")
    rows = np.ones((1, 3))
    results = [client.predict(model, rows).logits for client in (*clients, *clients)]
    assert np.ptp(np.stack(results), axis=0).max() <= 2 * model.error
    assert sum(len(body) > 2_000_000 for body in spoken) == 4


def test_mistakes_are_told_apart(http: Any) -> None:
    """Unknown and unsuitable models, foreign digests, unknown keys, keys of another model, too much: each its own status and sentence."""
    keys = ClientKeys(Parameters(1, 4))
    cases: list[tuple[Any, int, str]] = [
        (http.get("/v1/models/none/champion"), 404, "none@champion: no such registered model"),
        (http.get("/v1/models/relu/1"), 422, "ReLU (layer network.1) cannot be evaluated on ciphertext"),
        (http.put(f"/v1/keys/{'0' * 64}", content=keys.public), 400, "upload keys under their own digest"),
        (http.put(f"/v1/keys/{keys.digest}", content=keys.public), 204, ""),
        (http.post("/v1/models/lab/1/predictions", content=b"\xff"), 422, "the body is no question"),
        (_ask(http, Question("00", (b"",))), 409, "no evaluation keys '00' here"),
        (_ask(http, Question(keys.digest, (b"",))), 400, "the keys are for Parameters(levels=1, width=4)"),
        (_ask(http, Question(keys.digest, (b"",) * (MOST_CIPHERTEXTS + 1))), 413, "send 1 to 32 at a time"),
        (_ask(http, Question(keys.digest, ())), 413, "0 ciphertexts"),
    ]
    for response, status, detail in cases:
        assert response.status_code == status, response.text
        assert detail in response.text.replace("\\", "")
    client = InferenceClient("http://127.0.0.1:4210", http)
    with pytest.raises(UsageError, match=r"relu version 1: ReLU .*PolynomialMLP"):
        client.describe("relu", "champion")


def _ask(http: Any, question: Question) -> Any:
    return http.post("/v1/models/lab/1/predictions", content=msgspec.msgpack.encode(question))


def test_a_body_is_read_no_further_than_allowed(http: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body above the limit is answered 413 however it is sent."""
    monkeypatch.setattr(server, "MOST_KEY_BYTES", 1000)
    assert http.put(f"/v1/keys/{'0' * 64}", content=iter([b"x" * 600] * 3)).status_code == 413


@given(body=st.binary(max_size=200), path=st.sampled_from(["/v1/models/lab/1/predictions", "/v1/keys/00"]))
@settings(deadline=None, max_examples=40)
def test_no_bytes_break_the_service(body: bytes, path: str) -> None:
    """Whatever is posted, the answer is a 4xx."""
    with TestClient(application(registered)) as http:
        response = http.put(path, content=body) if "keys" in path else http.post(path, content=body)
        assert 400 <= response.status_code < 500


def test_where_no_service_is() -> None:
    """A dead port, another kind of server, and what is no URL are one sentence each."""
    with pytest.raises(FailureError, match=r"no inference service answers at http://127.0.0.1:9 .*cifer up"):
        InferenceClient("http://127.0.0.1:9").describe("lab", "1")
    other = httpx.Client(base_url="http://other", transport=httpx.MockTransport(lambda request: httpx.Response(200, text="hello")))
    with pytest.raises(FailureError, match="does not answer as an inference service does"):
        InferenceClient("http://other", other).describe("lab", "1")
    for url in ("127.0.0.1:4210", "ftp://server", "http://"):
        with pytest.raises(UsageError, match="is no URL"):
            InferenceClient(url)
    assert asking.BATCH <= MOST_CIPHERTEXTS


def _csv(folder: Path, text: str) -> Path:
    path = folder / "rows.csv"
    path.write_text(text)
    return path


def test_rows_are_prepared_as_training_rows_were(tmp_path: Path) -> None:
    """Columns are found by name in any order, others are left out, values standardised, labels numbered."""
    rows = read_rows(_csv(tmp_path, "ill,pulse,name,age,dose\nyes,68,a,50,1.5\nno,60,b,40,1\n"), PREPARED)
    assert rows.features.tolist() == [[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]
    assert rows.labels is not None
    assert rows.labels.tolist() == [1, 0]
    assert read_rows(_csv(tmp_path, "age,dose,pulse\n1,2,3\n"), PREPARED).labels is None


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("age,dose\n1,2\n", r"no column 'pulse' \(1 of the model's 3 features are missing\)"),
        ("age,dose,pulse\n1,2,\n", r"row 1 has no finite value of 'pulse'"),
        ("age,dose,pulse\n1,2,fast\n", r"column 'pulse' is not numeric"),
        ("age,dose,pulse,ill\n1,2,3,maybe\n", r"row 1: 'maybe' in column 'ill' is none of the model's labels"),
    ],
)
def test_rows_that_do_not_fit_are_named(tmp_path: Path, text: str, pattern: str) -> None:
    """Missing columns and values, text, and unknown labels are named with file, row and column."""
    with pytest.raises(DataError, match=pattern):
        read_rows(_csv(tmp_path, text), PREPARED)
    with pytest.raises(DataError, match="no such file"):
        read_rows(tmp_path / "none.csv", PREPARED)
