"""`cifer bench encryption`: every scheme and NVFlare's default preset on the same updates, one after the other, in one run.

Each family is measured in a process of its own, so that its peak memory is its own. What is compared are ratios: seconds move between
machines, and with what else runs on them.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, Final, TypeVar

import numpy as np

from flows.documents import Report

T = TypeVar("T")

BASELINE: Final = "nvflare"
FAMILIES: Final = ("threshold-16", "threshold-10", "ckks-lean", "ckks-nvflare", "plain", BASELINE)
"""Threshold at 16 and 10 bits, our own families at 16, and NVFlare's default as NVFlare does it: symmetric CKKS on floats, all cores."""

REPEATS: Final = 5
CLIP_NORM: Final = 10.0


def encryption_costs(parameters: int, clients: int, families: Sequence[str] = FAMILIES) -> Report:
    """Parameters per second to encrypt (at one site), to add (all sites' together) and to open; bytes, memory and error of each family.

    Ratios are given where the baseline is among the families.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as pool:
        rows = {family: pool.submit(_measure, family, parameters, clients).result() for family in families}
    baseline = rows.get(BASELINE, {})
    for row in rows.values() if baseline else ():
        row["encrypt_speed_ratio"] = row["encrypt_params_per_second"] / baseline["encrypt_params_per_second"]
        row["bytes_ratio"] = baseline["bytes_per_parameter"] / row["bytes_per_parameter"]
    document = {"parameters": parameters, "clients": clients, "baseline": BASELINE, "families": rows}
    return Report(document, tuple(_lines(document)))


def _lines(document: dict[str, Any]) -> list[str]:
    lines = [
        f"{document['parameters']:,} parameters, {document['clients']} sites; millions of parameters a second; ratios to {BASELINE}",
        f"{'':<13} {'encrypt':>9} {'add':>9} {'open':>9} {'bytes/param':>12} {'peak MB':>8} {'max error':>10} {'faster':>7} {'smaller':>8}",
    ]
    for family, row in document["families"].items():
        speeds = " ".join(f"{row[f'{verb}_params_per_second'] / 1e6:>9.1f}" for verb in ("encrypt", "add", "open"))
        lines.append(
            f"{family:<13} {speeds} {row['bytes_per_parameter']:>12.3f} {row['peak_bytes'] / 1e6:>8.0f} {row['max_error']:>10.1e} "
            + (f"{row['encrypt_speed_ratio']:>7.1f} {row['bytes_ratio']:>8.1f}" if "bytes_ratio" in row else f"{'-':>7} {'-':>8}")
        )
    return lines


def _measure(family: str, parameters: int, clients: int) -> dict[str, Any]:
    """One family, in this process. max_error: of the opened mean against the mean in float64, relative to the clipping norm."""
    updates = _updates(parameters, clients)
    # TenSEAL writes a remark for every vector longer than one ciphertext, past Python, on the descriptor itself.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    before = _peak_bytes()
    return (_nvflare if family == BASELINE else _ours)(family, updates) | {"idle_bytes": before, "peak_bytes": _peak_bytes()}


def _updates(parameters: int, clients: int) -> list[np.ndarray[Any, np.dtype[np.float32]]]:
    """Updates of norm about half the clipping norm, so that none is clipped; float32 (d,) each."""
    rng = np.random.default_rng(7)
    return [rng.normal(0, CLIP_NORM / 2 / parameters**0.5, parameters).astype(np.float32) for _ in range(clients)]


def _ours(family: str, updates: Sequence[Any]) -> dict[str, Any]:
    from cifer_tasks.aggregation import mean_update
    from cifer_tasks.config import Encryption
    from cifer_tasks.encryption import scheme_for
    from cifer_tasks.encryption.encoding import Encoding, rounding_seed
    from cifer_tasks.encryption.scheme import Binding

    name, _, detail = family.partition("-")
    settings: dict[str, Any] = {"scheme": name, "bits": int(detail) if detail.isdigit() else 16}
    if name == "ckks":
        settings["preset"] = detail
    scheme = scheme_for(Encryption(**settings))
    sites = [f"site-{number:04d}" for number in range(len(updates))]
    keys = {holder: scheme.generate() for holder in (sites if scheme.key_per_site else ["shared"])}
    public = scheme.context({holder: pair[0] for holder, pair in keys.items()})
    rows = dict.fromkeys(sites, 100)
    encoding = Encoding.of(settings["bits"], CLIP_NORM, rows)
    binding = Binding("00" * 32, "bench", 1, updates[0].size, encoding.bound, "00" * 32)
    encoded, encoding_seconds = _best(lambda: encoding.encode(updates[0], 100, rounding_seed(7, 1, sites[0]))[0])
    values = [encoded] + [
        encoding.encode(update, 100, rounding_seed(7, 1, site))[0] for site, update in zip(sites[1:], updates[1:], strict=True)
    ]
    first, encrypting = _best(lambda: scheme.encrypt(values[0], binding, public, sites[0]))
    encrypt_peak = _peak_bytes()
    submissions = {sites[0]: first} | {
        site: scheme.encrypt(value, binding, public, site) for site, value in zip(sites[1:], values[1:], strict=True)
    }
    aggregate, adding = _best(lambda: scheme.add(list(submissions.values()), public))
    started = time.perf_counter()
    openers = scheme.openers(sites, public)
    openings = [scheme.release(submissions, opener, public, keys[opener if scheme.key_per_site else "shared"][1]) for opener in openers]
    releasing = (time.perf_counter() - started) / len(openers)
    total, opening = _best(lambda: scheme.open(aggregate, openings, public))
    if not scheme.key_per_site:
        # The holder of a shared key decrypts when it releases; what it does besides is adding, which was measured.
        opening += max(releasing - adding, 0.0)
    error = float(np.abs(mean_update(total, encoding, rows).astype(np.float64) - np.mean(updates, axis=0, dtype=np.float64)).max())
    exact = bool(np.array_equal(total, np.sum(values, axis=0)))
    costs = _costs(updates, encrypting, adding, opening, len(first.to_bytes()), error)
    return costs | {
        "exact": exact,
        "bits": settings["bits"],
        "encode_params_per_second": updates[0].size / encoding_seconds,
        "release_seconds": releasing,
        "encrypt_peak_bytes": encrypt_peak,
    }


def _nvflare(family: str, updates: Sequence[Any]) -> dict[str, Any]:
    """NVFlare's `HEBuilder` defaults: CKKS, N = 8192, primes of 60, 40 and 40 bits, scale 2^40, symmetric, on the floats themselves."""
    import tenseal as ts

    context = ts.context(
        ts.SCHEME_TYPE.CKKS,
        poly_modulus_degree=8192,
        coeff_mod_bit_sizes=[60, 40, 40],
        encryption_type=ts.ENCRYPTION_TYPE.SYMMETRIC,
    )
    context.global_scale = 2.0**40
    first, encrypting = _best(lambda: ts.ckks_vector(context, updates[0]).serialize(), repeats=2)
    encrypt_peak = _peak_bytes()
    written = [first] + [ts.ckks_vector(context, update).serialize() for update in updates[1:]]

    def add() -> bytes:
        total = ts.ckks_vector_from(context, written[0])
        for data in written[1:]:
            total.add_(ts.ckks_vector_from(context, data))
        return bytes(total.serialize())

    aggregate, adding = _best(add, repeats=2)
    opened, opening = _best(lambda: np.array(ts.ckks_vector_from(context, aggregate).decrypt()), repeats=2)
    error = float(np.abs(opened / len(updates) - np.mean(updates, axis=0, dtype=np.float64)).max())
    return _costs(updates, encrypting, adding, opening, len(first), error) | {"exact": False, "encrypt_peak_bytes": encrypt_peak}


def _costs(updates: Sequence[Any], encrypting: float, adding: float, opening: float, size_bytes: int, error: float) -> dict[str, Any]:
    parameters = updates[0].size
    return {
        "encrypt_seconds": encrypting,
        "add_seconds": adding,
        "open_seconds": opening,
        "encrypt_params_per_second": parameters / encrypting,
        "add_params_per_second": parameters * len(updates) / adding,
        "open_params_per_second": parameters / opening,
        "bytes_per_parameter": size_bytes / parameters,
        "max_error": error / CLIP_NORM,
    }


def _best(work: Callable[[], T], repeats: int = REPEATS) -> tuple[T, float]:
    """The result and the shortest of some runs in seconds, after one that pays for compilation and caches."""
    result, shortest = work(), float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        result = work()
        shortest = min(shortest, time.perf_counter() - started)
    return result, shortest


def _peak_bytes() -> int:
    """The largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
