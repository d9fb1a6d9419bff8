"""`cifer predict`: a registered model on a table of the caller's, in the clear here, or encrypted at a server that sees neither."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from cifer_tasks.data.tables import Preprocessing
from cifer_tasks.errors import UsageError
from cifer_tasks.files import write_atomically
from cifer_tasks.workspace import home_folder
from flows.audit import parse_reference
from flows.documents import Report
from flows.services.kinds import DEFAULT_PORTS, url_of

if TYPE_CHECKING:
    from cifer_tasks.inference.rows import Rows
    from cifer_tasks.tracking import LoadedModel

DECIMALS: Final = 3
"""Of logits that are shown: what a ciphertext's noise changes lies behind them and stays with the client (Li and Micciancio 2021)."""

Floats = npt.NDArray[np.float64]
Progress = Callable[[str], None]


def predict_plain(reference: str, path: Path, output: Path | None = None) -> Report:
    """Predict in this process with a model of this project's registry.

    Raises `UsageError` for a model that is not there, `DataError` for a table that does not fit it.
    """
    from cifer_tasks.inference.rows import read_rows

    name, which = parse_reference(reference)
    loaded = _registered(name, str(which))
    preprocessing = _preprocessing(loaded)
    rows = read_rows(path, preprocessing)
    logits, seconds = _in_the_clear(loaded, rows)
    document = {
        "model": loaded.name,
        "version": loaded.version,
        "digest": loaded.digest,
        "encrypted": False,
        **_outcome(logits, rows, preprocessing.labels),
        "plain": {"seconds": seconds, "accuracy": _accuracy(logits, rows)},
    }
    _write(output, document)
    return Report(document, (*_heading(document), f"in the clear   {seconds:.4f} s{_share(document['plain'])}", *_written(output)))


def predict_encrypted(
    reference: str, path: Path, server: str, output: Path | None = None, progress: Progress = lambda text: None
) -> Report:
    """Predict on ciphertext at a server, and in the clear beside it where this project's registry has the very model.

    server: URL; where empty, the service that `cifer up` started here. Raises as `InferenceClient`, and as `predict_plain`.
    """
    from cifer_tasks.inference.asking import InferenceClient
    from cifer_tasks.inference.rows import read_rows

    name, which = parse_reference(reference)
    with InferenceClient(server or _own_service()) as client:
        model = client.describe(name, str(which))
        preprocessing = Preprocessing(model.features, model.mean, model.scale, model.target, model.labels)
        rows = read_rows(path, preprocessing)
        asked = client.predict(model, rows.features, lambda done, of: progress(f"ciphertext {done} of {of}"))
    encrypted: dict[str, Any] = {
        "server": server or _own_service(),
        "layers": model.layers,
        "seconds": asked.seconds,
        "keys_seconds": asked.keys_seconds,
        "encrypt_seconds": asked.encrypt_seconds,
        "answer_seconds": asked.answer_seconds,
        "evaluate_seconds": asked.evaluate_seconds,
        "decrypt_seconds": asked.decrypt_seconds,
        "key_bytes": asked.key_bytes,
        "sent_bytes": asked.sent_bytes,
        "received_bytes": asked.received_bytes,
        "accuracy": _accuracy(asked.logits, rows),
        "stated_error": model.error,
        "stated_error_at": model.error_at,
        "largest_feature": float(np.abs(rows.features).max()),
    }
    document = {
        "model": model.name,
        "version": model.version,
        "digest": model.digest,
        "encrypted": encrypted,
        **_outcome(asked.logits, rows, model.labels),
        "plain": _beside(model.name, model.version, model.digest, rows, asked.logits),
    }
    _write(output, document)
    return Report(document, (*_heading(document), *_encrypted_lines(encrypted, document["plain"]), *_written(output)))


def _own_service() -> str:
    """Where the service of this folder listens, or would."""
    from flows.services.state import read_state

    state = read_state(home_folder())
    known = state.services.get("predict") if state is not None else None
    return url_of(known.port if known is not None else DEFAULT_PORTS["predict"])


def _registered(name: str, which: str) -> LoadedModel:
    from cifer_tasks.tracking import load_registered

    if not (Path.cwd() / "mlruns").is_dir():
        msg = f"{name}@{which}: there is no registry in {Path.cwd()}; go to the folder the model was trained in"
        raise UsageError(msg)
    return load_registered(Path.cwd(), name, which)


def _preprocessing(loaded: LoadedModel) -> Preprocessing:
    if loaded.preprocessing is None:
        msg = f"{loaded.name} version {loaded.version} was registered without the preprocessing of its rows; train it again"
        raise UsageError(msg)
    return loaded.preprocessing


def _in_the_clear(loaded: LoadedModel, rows: Rows) -> tuple[Floats, float]:
    """Logits float64 (n, classes), and the seconds they took; a first row pays for what PyTorch sets up once."""
    import torch

    features = torch.from_numpy(rows.features)
    with torch.no_grad():
        loaded.module(features[:1])
        started = time.perf_counter()
        logits = loaded.module(features)
        return logits.double().numpy(), time.perf_counter() - started


def _beside(name: str, version: int, digest: str, rows: Rows, logits: Floats) -> dict[str, Any] | None:
    """The same in the clear, when the model of that digest is registered here; None when it is only at the server."""
    try:
        loaded = _registered(name, str(version))
    except UsageError:
        return None
    if loaded.digest != digest:
        return None
    plain, seconds = _in_the_clear(loaded, rows)
    return {
        "seconds": seconds,
        "accuracy": _accuracy(plain, rows),
        "largest_difference": float(np.abs(plain - logits).max()),
        "same_predictions": float((plain.argmax(axis=1) == logits.argmax(axis=1)).mean()),
    }


def _accuracy(logits: Floats, rows: Rows) -> float | None:
    return None if rows.labels is None else float((logits.argmax(axis=1) == rows.labels).mean())


def _outcome(logits: Floats, rows: Rows, labels: tuple[str, ...]) -> dict[str, Any]:
    return {
        "rows": int(rows.features.shape[0]),
        "predictions": [labels[number] for number in logits.argmax(axis=1)],
        "logits": np.round(logits, DECIMALS).tolist(),
    }


def _heading(document: dict[str, Any]) -> tuple[str, ...]:
    counts = {label: document["predictions"].count(label) for label in sorted(set(document["predictions"]))}
    told = ", ".join(f"{label}: {count}" for label, count in counts.items())
    return (f"{document['model']} version {document['version']}, sha256 {document['digest'][:16]}...", f"{document['rows']} rows   {told}")


def _encrypted_lines(encrypted: dict[str, Any], plain: dict[str, Any] | None) -> tuple[str, ...]:
    sizes = f"{encrypted['sent_bytes']:,} bytes sent, {encrypted['received_bytes']:,} received, keys {encrypted['key_bytes']:,} once"
    lines = [
        f"encrypted      {encrypted['seconds']:.4f} s{_share(encrypted)}   {encrypted['layers']}",
        f"               encrypt {encrypted['encrypt_seconds']:.4f}, evaluate {encrypted['evaluate_seconds']:.4f}, "
        f"decrypt {encrypted['decrypt_seconds']:.4f} s; keys made and uploaded in {encrypted['keys_seconds']:.2f} s",
        f"               {sizes}",
    ]
    if plain is None:
        return (*lines, "in the clear   not compared: this model is not in the registry of this folder")
    ratio = encrypted["seconds"] / max(plain["seconds"], 1e-9)
    return (
        *lines,
        f"in the clear   {plain['seconds']:.4f} s{_share(plain)}   encrypted takes {ratio:,.0f} times as long",
        f"               logits differ by at most {plain['largest_difference']:.1e}; {plain['same_predictions']:.2%} of predictions agree",
    )


def _share(part: dict[str, Any]) -> str:
    return "" if part["accuracy"] is None else f"   accuracy {part['accuracy']:.4f}"


def _write(output: Path | None, document: dict[str, Any]) -> None:
    """The predictions as CSV, a line per row. Raises `StorageError`."""
    if output is None:
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", "prediction"])
    writer.writerows(enumerate(document["predictions"], start=1))
    write_atomically(output, text.getvalue().encode())


def _written(output: Path | None) -> tuple[str, ...]:
    return () if output is None else (f"predictions in {output}",)
