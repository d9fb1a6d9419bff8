"""`cifer bench encryption`: every scheme and NVFlare's default preset on the same updates, one after the other, in one run.

Every role of a round of our families, site, aggregator, key holder and opener, is a process of its own that reads files and writes
files, as it would on a machine of its own, so that its peak memory is its own. Seconds are from file to file, without the SHA-256 of the
artifact store. What is compared are ratios: seconds move between machines, and with what else runs on them.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cifer_tasks.encryption import Binding, Ciphertext, Opening, PublicContext, Scheme, SecretContext
from cifer_tasks.encryption.encoding import Encoding, rounding_seed
from cifer_tasks.encryption.vectors import PIECE, StoredVector, integers_to_bytes
from cifer_tasks.files import FileBytes
from flows.documents import Report

BASELINE: Final = "nvflare"
FAMILIES: Final = ("threshold-16", "threshold-10", "ckks-lean", "ckks-nvflare", "plain", BASELINE)
"""Threshold at 16 and 10 bits, our own families at 16, and NVFlare's default as NVFlare does it: symmetric CKKS on floats, all cores."""

REPEATS: Final = 5
CLIP_NORM: Final = 10.0
ROWS: Final = 100


def encryption_costs(parameters: int, clients: int, families: Sequence[str] = FAMILIES) -> Report:
    """Parameters per second to encrypt (at one site), to add (all sites' together) and to open; bytes, memory and error of each family.

    Ratios are given where the baseline is among the families. killed: families of which a process was killed, as the system does when
    memory runs out.
    """
    rows: dict[str, dict[str, Any]] = {}
    killed: list[str] = []
    for family in families:
        try:
            rows[family] = _measure(family, parameters, clients)
        except BrokenProcessPool:
            killed.append(family)
    baseline = rows.get(BASELINE, {})
    for row in rows.values() if baseline else ():
        row["encrypt_speed_ratio"] = row["encrypt_params_per_second"] / baseline["encrypt_params_per_second"]
        row["bytes_ratio"] = baseline["bytes_per_parameter"] / row["bytes_per_parameter"]
    document = {"parameters": parameters, "clients": clients, "baseline": BASELINE, "families": rows, "killed": killed}
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
    lines += [
        f"{family}: its process was killed, most likely for want of memory; try fewer --params or --clients"
        for family in document["killed"]
    ]
    return lines


def _measure(family: str, parameters: int, clients: int) -> dict[str, Any]:
    """One family. max_error: of the opened mean against the mean in float64, relative to the clipping norm."""
    if family == BASELINE:
        return _alone(_nvflare, parameters, clients)
    with tempfile.TemporaryDirectory(prefix="cifer-bench-") as folder:
        base = Path(folder)
        keys = _alone(_prepare, base, family, parameters, clients)
        first = _alone(_sites, base, family, range(1), REPEATS)
        _alone(_sites, base, family, range(1, clients), 0)
        adding = _alone(_aggregator, base, family)
        releasing = _alone(_holders, base, family, range(1))
        _alone(_holders, base, family, range(1, keys["openers"]))
        opening = _alone(_opener, base, family)
        checked = _alone(_check, base, family)
    roles = {"site": first, "aggregator": adding, "holder": releasing, "opener": opening}
    peaks = {role: found.pop("peak_bytes") for role, found in roles.items()}
    opening_seconds = opening["open_seconds"]
    if not keys["key_per_site"]:
        # The holder of a shared key decrypts when it releases; what it does besides is adding, which was measured.
        opening_seconds += max(releasing["release_seconds"] - adding["add_seconds"], 0.0)
    costs = _costs(parameters, clients, first["encrypt_seconds"], adding["add_seconds"], opening_seconds, first["size_bytes"])
    return (
        costs
        | checked
        | {
            "encode_params_per_second": parameters / first["encode_seconds"],
            "release_seconds": releasing["release_seconds"],
            "peak_bytes": max(peaks.values()),
            "peak_bytes_of": peaks,
            "peak_per_model": max(peaks.values()) / (4 * parameters),
        }
    )


def _alone(work: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """What `work` returns from a process of its own, with the process's peak memory."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as pool:
        return pool.submit(_with_peak, work, arguments).result()


def _with_peak(work: Callable[..., dict[str, Any]], arguments: Sequence[Any]) -> dict[str, Any]:
    # TenSEAL writes a remark for every vector longer than one ciphertext, past Python, on the descriptor itself.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return work(*arguments) | {"peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


# ------------------------------------------------------------------------------------- our families, a process a role


@dataclass(frozen=True, slots=True)
class Round:
    """What every role of one benchmarked round knows, from the files of its folder."""

    folder: Path
    scheme: Scheme
    encoding: Encoding
    binding: Binding
    public: PublicContext
    sites: tuple[str, ...]

    def vector(self, name: str, dtype: str) -> StoredVector:
        """A vector in a file."""
        path = self.folder / name
        return StoredVector(FileBytes(path, 0, path.stat().st_size), np.dtype(dtype))

    def ciphertext(self, name: str) -> Ciphertext:
        """A ciphertext whose body stays in its file."""
        path = self.folder / name
        return Ciphertext.from_bytes(FileBytes(path, 0, path.stat().st_size), self.scheme.name, self.binding)

    def submissions(self) -> dict[str, Ciphertext]:
        """All sites' ciphertexts."""
        return {site: self.ciphertext(f"{site}.ciphertext") for site in self.sites}

    def openers(self) -> tuple[str, ...]:
        """Who releases."""
        return self.scheme.openers(self.sites, self.public)


def _bits(family: str) -> int:
    detail = family.partition("-")[2]
    return int(detail) if detail.isdigit() else 16


def _scheme(family: str) -> Scheme:
    from cifer_tasks.config import Encryption
    from cifer_tasks.encryption import scheme_for

    name, _, detail = family.partition("-")
    settings: dict[str, Any] = {"scheme": name, "bits": _bits(family)}
    if name == "ckks":
        settings["preset"] = detail
    return scheme_for(Encryption(**settings))


def _round(folder: Path, family: str) -> Round:
    sites = tuple(sorted(path.name.removesuffix(".update") for path in folder.glob("*.update")))
    parameters = (folder / f"{sites[0]}.update").stat().st_size // 4
    encoding = Encoding.of(_bits(family), CLIP_NORM, dict.fromkeys(sites, ROWS))
    binding = Binding("00" * 32, "bench", 1, parameters, encoding.bound, "00" * 32)
    scheme = _scheme(family)
    return Round(folder, scheme, encoding, binding, PublicContext(scheme.name, (folder / "public").read_bytes()), sites)


def _prepare(folder: Path, family: str, parameters: int, clients: int) -> dict[str, Any]:
    """Updates, and keys for this one round."""
    sites = [f"site-{number:04d}" for number in range(clients)]
    for number, site in enumerate(sites):
        _update(parameters, number).tofile(folder / f"{site}.update")
    scheme = _scheme(family)
    keys = {holder: scheme.generate() for holder in (sites if scheme.key_per_site else ["shared"])}
    for holder, (_, secret) in keys.items():
        (folder / f"{holder}.secret").write_bytes(secret.reveal())
    public = scheme.context({holder: pair[0] for holder, pair in keys.items()})
    (folder / "public").write_bytes(public.data)
    return {"openers": len(scheme.openers(sites, public)), "key_per_site": scheme.key_per_site}


def _sites(folder: Path, family: str, numbers: range, repeats: int) -> dict[str, Any]:
    """From the update in a file to the ciphertext in a file, one site after the other; the seconds of the last."""
    made, costs = _round(folder, family), {}
    for number in numbers:
        costs = _site(made, made.sites[number], repeats)
    return costs


def _site(made: Round, site: str, repeats: int) -> dict[str, Any]:
    folder = made.folder
    encoded, submitted = folder / f"{site}.encoded", folder / f"{site}.ciphertext"

    def encode() -> None:
        values, _, _ = made.encoding.encode_pieces(made.vector(f"{site}.update", "<f4"), ROWS, rounding_seed(7, 1, site))
        _write(encoded, map(integers_to_bytes, values))

    def encrypt() -> None:
        _write(submitted, made.scheme.encrypt_pieces(made.vector(encoded.name, "<i4"), made.binding, made.public, site))

    encoding_seconds, encrypting = _best(encode, repeats), _best(encrypt, repeats)
    return {"encode_seconds": encoding_seconds, "encrypt_seconds": encrypting, "size_bytes": submitted.stat().st_size}


def _aggregator(folder: Path, family: str) -> dict[str, Any]:
    made = _round(folder, family)
    submissions = list(made.submissions().values())
    return {"add_seconds": _best(lambda: _write(folder / "aggregate", made.scheme.add_pieces(submissions, made.public)))}


def _holders(folder: Path, family: str, numbers: range) -> dict[str, Any]:
    """Each adds and releases; in one process they add once. The seconds of all."""
    made = _round(folder, family)
    submissions = made.submissions()

    def release() -> None:
        for number in numbers:
            opener = made.openers()[number]
            secret = SecretContext(made.scheme.name, (folder / f"{opener if made.scheme.key_per_site else 'shared'}.secret").read_bytes())
            (folder / f"opening-{number:04d}").write_bytes(made.scheme.release(submissions, opener, made.public, secret).to_bytes())

    return {"release_seconds": _best(release, 0)}


def _opener(folder: Path, family: str) -> dict[str, Any]:
    made = _round(folder, family)
    aggregate = made.ciphertext("aggregate")

    def opened() -> None:  # from the openings' bytes each time: a scheme may know objects again that it has looked at
        openings = [Opening.from_bytes(path.read_bytes(), made.scheme.name, made.binding) for path in sorted(folder.glob("opening-*"))]
        _write(folder / "opened", map(integers_to_bytes, made.scheme.open_pieces(aggregate, openings, made.public)))

    return {"open_seconds": _best(opened)}


def _check(folder: Path, family: str) -> dict[str, Any]:
    """Whether the sum is that of the integers, and how far the mean is from that of the floats."""
    made = _round(folder, family)
    total, updates = made.vector("opened", "<i4"), [made.vector(f"{site}.update", "<f4") for site in made.sites]
    encoded = [made.vector(f"{site}.encoded", "<i4") for site in made.sites]
    mean = made.encoding.decode_mean(total, ROWS * len(made.sites))
    exact, error = True, 0.0
    for start in range(0, total.size, PIECE):
        where = slice(start, start + PIECE)
        exact &= bool(np.array_equal(total[where], np.sum([item[where] for item in encoded], axis=0)))
        wanted = np.mean([item[where] for item in updates], axis=0, dtype=np.float64)
        error = max(error, float(np.abs(mean[where].astype(np.float64) - wanted).max()))
    return {"exact": exact, "max_error": error / CLIP_NORM, "bits": _bits(family)}


# ---------------------------------------------------------------------------------------------------------- the baseline


def _nvflare(parameters: int, clients: int) -> dict[str, Any]:
    """NVFlare's `HEBuilder` defaults: CKKS, N = 8192, primes of 60, 40 and 40 bits, scale 2^40, symmetric, on the floats themselves.

    All sites and the aggregator in one process and in memory, so its peak is of all of them.
    """
    import tenseal as ts

    updates = [_update(parameters, number) for number in range(clients)]

    context = ts.context(
        ts.SCHEME_TYPE.CKKS,
        poly_modulus_degree=8192,
        coeff_mod_bit_sizes=[60, 40, 40],
        encryption_type=ts.ENCRYPTION_TYPE.SYMMETRIC,
    )
    context.global_scale = 2.0**40
    written = [ts.ckks_vector(context, update).serialize() for update in updates]
    encrypting = _best(lambda: ts.ckks_vector(context, updates[0]).serialize(), repeats=2)

    def add() -> bytes:
        total = ts.ckks_vector_from(context, written[0])
        for data in written[1:]:
            total.add_(ts.ckks_vector_from(context, data))
        return bytes(total.serialize())

    aggregate = add()
    adding = _best(add, repeats=2)
    opening = _best(lambda: ts.ckks_vector_from(context, aggregate).decrypt(), repeats=2)
    opened = np.array(ts.ckks_vector_from(context, aggregate).decrypt())
    error = float(np.abs(opened / clients - np.mean(updates, axis=0, dtype=np.float64)).max())
    costs = _costs(parameters, clients, encrypting, adding, opening, len(written[0]))
    return costs | {"exact": False, "max_error": error / CLIP_NORM}


def _update(parameters: int, number: int) -> npt.NDArray[np.float32]:
    """A site's update, of norm about half the clipping norm, so that it is not clipped; float32 (d,)."""
    return np.random.default_rng((7, number)).standard_normal(parameters, dtype=np.float32) * np.float32(CLIP_NORM / 2 / parameters**0.5)


def _costs(parameters: int, clients: int, encrypting: float, adding: float, opening: float, size_bytes: int) -> dict[str, Any]:
    return {
        "encrypt_seconds": encrypting,
        "add_seconds": adding,
        "open_seconds": opening,
        "encrypt_params_per_second": parameters / encrypting,
        "add_params_per_second": parameters * clients / adding,
        "open_params_per_second": parameters / opening,
        "bytes_per_parameter": size_bytes / parameters,
    }


def _write(path: Path, pieces: Iterable[bytes | memoryview]) -> None:
    with path.open("wb", buffering=0) as stream:
        for piece in pieces:
            stream.write(piece)


def _best(work: Callable[[], object], repeats: int = REPEATS) -> float:
    """The shortest of some runs in seconds, after one that pays for compilation and caches; of that one when there are no others."""
    shortest = float("inf")
    for run in range(repeats + 1):
        started = time.perf_counter()
        work()
        if run or not repeats:
            shortest = min(shortest, time.perf_counter() - started)
    return shortest
