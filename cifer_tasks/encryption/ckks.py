"""CKKS (Cheon, Kim, Kim, Song 2017) through TenSEAL, made exact by rounding to the integers that were encrypted.

One flat vector is cut into chunks of one ciphertext each: N/2 slots, of which the last `CHECK_SLOTS` hold zeros. Sites encrypt with the
public key. The sum of K fresh ciphertexts opens with an error per slot that is normal to good approximation, with deviation
sqrt(K N/2 (1 + 2N/3) / 12) / scale: the rounding error of the switch from the encryption modulus to the data modulus, which dwarfs the
encryption noise (measured 680 / scale at N = 4096, K = 1, where the formula gives 683). Presets are chosen so that 0.25 of a unit is at
least 12 deviations for 1000 sites: `refusal_probability_log2`.

Opening refuses with an `IntegrityError` when any slot lies further than `MARGIN` from an integer. So the failure that this probability
speaks of is a detected one; a wrong sum would need an error beyond 0.75. Double precision in the encoder adds about 3e-16 of the values'
magnitude, below 1e-6 of a unit for 30-bit encodings.

Because what leaves the key holders is the exact sum, a function of the submitted integers only, decryption results carry no noise that
depends on the key (Li and Micciancio 2021, "On the security of homomorphic encryption on approximate numbers"), and the opened sum is the
same as with `plain`, bit for bit.

What one shared key does not give: every key holder can open every single submission it gets hold of.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import tenseal as ts
import tenseal.sealapi

from cifer_tasks.encryption import ckks_statistics
from cifer_tasks.encryption._shared import MAXIMUM_SITES, SharedKeyScheme
from cifer_tasks.encryption.ckks_statistics import Trial
from cifer_tasks.encryption.scheme import Binding, Ciphertext, PublicContext, SecretContext
from cifer_tasks.encryption.statistics import MEASURED_BITS, NOT_REAL, Measurement, Query
from cifer_tasks.encryption.vectors import IntVector, Vector
from cifer_tasks.errors import IntegrityError, KeyMismatchError, SpoiltSumError
from cifer_tasks.files import Body

MARGIN: Final = 0.25
"""Largest accepted distance of an opened slot from the nearest integer, in units of the encoding."""

CHECK_SLOTS: Final = 8
"""Slots per ciphertext that must open to zero: under a wrong key all eight do with probability below 2^-100."""

TRIAL_DEVIATIONS: Final = 16
"""How far a sum of honest submissions may be off, in deviations of its noise: an entry is further with probability below e^-128."""

_LENGTH_BYTES: Final = 4
_SEAL_ERRORS: Final = (ValueError, RuntimeError, TypeError, IndexError, OverflowError)


@dataclass(frozen=True, slots=True)
class Preset:
    """CKKS parameters. Security: SEAL refuses a context whose modulus is above the 128-bit limit of the HE standard (109 bits at N = 4096).

    modulus_bits: the data primes, then the special prime that encryption switches away from.  scale_bits: log2 of units per integer.
    measures: whether there is room in it for statistics of submissions.
    """

    name: str
    degree: int
    modulus_bits: tuple[int, ...]
    scale_bits: int
    measures: bool = False

    @property
    def slots(self) -> int:
        """Values per ciphertext, check slots included."""
        return self.degree // 2

    @property
    def capacity(self) -> int:
        """Largest absolute value that a sum may reach: scaled, it has to stay below half the data modulus. SEAL's primes lie within
        0.1% of their size, below or above, and the noise needs a fraction of a unit: one bit is kept free for both.
        """
        return int(2 ** (sum(self.modulus_bits[:-1]) - 1 - self.scale_bits)) * 1023 // 1024


def lean(bits: int) -> Preset:
    """The smallest ciphertexts: scale 2^20, and a single data prime just wide enough for sums of `bits`-bit encodings over 1000 sites.

    For bits = 24: N = 4096, primes of 45 and 20 bits, 65 of the 109 that 128-bit security allows.
    """
    return Preset("lean", 4096, ((2 ** (bits - 1) + MAXIMUM_SITES).bit_length() + 21, 20), 20)


def nvflare(bits: int) -> Preset:
    """NVFlare's default parameters (`HEBuilder`): N = 8192, primes of 60, 40 and 40 bits, scale 2^40; whatever `bits` is."""
    return Preset("nvflare", 8192, (60, 40, 40), 40)


def measuring(bits: int) -> Preset:
    """For statistics of single updates: room for one product of two ciphertexts, never rescaled, so that it opens exactly.

    N = 8192, two data primes and one special prime of 60 bits (180 of the 218 that 128-bit security allows), scale 2^34: a product stands
    at 2^68, and a coefficient has 2 / N of the sum over its slots, so that squared lengths up to 2^32 have 2^30 times their room before
    they wrap around in the modulus.
    Raises `ValueError` for more than `MEASURED_BITS` bits.
    """
    if bits > MEASURED_BITS:
        msg = f"encryption.preset=measuring holds encodings of up to {MEASURED_BITS} bits; lower encryption.bits from {bits}"
        raise ValueError(msg)
    return Preset("measuring", 8192, (60, 60, 60), 34, measures=True)


_PRESETS: Final = {"lean": lean, "nvflare": nvflare, "measuring": measuring}


def noise_deviation(preset: Preset, sites: int) -> float:
    """Standard deviation of an opened slot of a sum over `sites`, in units of the encoding; see the module's docstring."""
    n = preset.degree
    return math.sqrt(sites * n / 2 * (1 + 2 * n / 3) / 12) / 2.0**preset.scale_bits


def refusal_probability_log2(preset: Preset, parameters: int, sites: int) -> float:
    """log2 of an upper bound on the probability that an honest sum of `parameters` entries is refused (union bound over normal tails).

    P(|X| > t s) <= exp(-t^2 / 2) for a normal X with deviation s and t >= 1.
    """
    tail = MARGIN / noise_deviation(preset, sites)
    return math.log2(parameters) - tail * tail / 2 / math.log(2)


class CkksScheme(SharedKeyScheme):
    """CKKS with one key shared by the sites. preset: `lean`, `nvflare` or `measuring`.  bits: resolution of the run's encoding."""

    name = "ckks"
    warning = (
        "encryption.scheme=ckks: the sites share one secret key; the aggregator together with any one site can read every site's update"
    )

    def __init__(self, preset: Literal["lean", "nvflare", "measuring"] = "lean", bits: int = 24) -> None:
        self.preset = _PRESETS[preset](bits)

    def generate(self) -> tuple[PublicContext, SecretContext]:
        """A fresh key pair from SEAL's generator, seeded by the operating system."""
        context = ts.context(
            ts.SCHEME_TYPE.CKKS,
            poly_modulus_degree=self.preset.degree,
            coeff_mod_bit_sizes=list(self.preset.modulus_bits),
            n_threads=1,
        )
        context.global_scale = 2.0**self.preset.scale_bits
        without = {"save_galois_keys": False, "save_relin_keys": False}
        public = PublicContext(self.name, context.serialize(save_public_key=True, save_secret_key=False, **without))
        secret = context.serialize(save_public_key=False, save_secret_key=True, **without)
        return public, SecretContext(self.name, public.digest() + secret)

    def encrypt(self, values: Vector, binding: Binding, public: PublicContext, sender: str = "") -> Ciphertext:
        """Encrypt integers (d,). Raises `ValueError` when the length or an entry's magnitude breaks `binding`, or the bound the preset."""
        if binding.bound > self.preset.capacity:
            msg = (
                f"sums up to {binding.bound} do not fit preset {self.preset.name}, which holds {self.preset.capacity}; "
                f"lower encryption.bits or have at most {MAXIMUM_SITES} sites"
            )
            raise ValueError(msg)
        return super().encrypt(values, binding, public, sender)

    @property
    def _payload(self) -> int:
        return self.preset.slots - CHECK_SLOTS

    def _encrypt(self, values: Vector, public: PublicContext) -> bytes:
        context = _public_context(public.data, self.preset)

        def chunks() -> Iterator[bytes]:
            for start in range(0, values.size, self._payload):
                part = values[start : start + self._payload]
                chunk = np.zeros(self.preset.slots)
                chunk[: part.size] = part
                yield ts.ckks_vector(context, chunk).serialize()

        return _join(chunks())

    def _add(self, bodies: Sequence[Body], parameters: int, public: PublicContext, factors: Sequence[int]) -> bytes:
        context = _public_context(public.data, self.preset)
        columns = zip(*(self._split(body, parameters) for body in bodies), strict=True)
        return _join(self._sum(context, chunks, factors).serialize() for chunks in columns)

    def _sum(self, context: Any, chunks: Sequence[bytes], factors: Sequence[int]) -> Any:
        """``sum factors_i chunks_i`` by doubling and adding, which is exact at any scale and leaves the scale as it is."""
        vectors = [self._load(context, chunk) for chunk in chunks]
        bits = max(factors).bit_length()
        first = next(place for place, factor in enumerate(factors) if factor >> (bits - 1))
        total = self._load(context, chunks[first])  # read again: TenSEAL's copy of a vector copies its context, keys and all
        for bit in reversed(range(bits)):
            if bit < bits - 1:
                total.add_(total)
            for place, (vector, factor) in enumerate(zip(vectors, factors, strict=True)):
                if factor >> bit & 1 and (bit, place) != (bits - 1, first):
                    total.add_(vector)
        return total

    def _measure(self, bodies: Sequence[Body], query: Query, public: PublicContext) -> bytes:
        self._check_measuring()
        context = _public_context(public.data, self.preset)
        asked = ckks_statistics.encode_query(context, query, self.preset)
        return _join(part for body in bodies for part in ckks_statistics.measure(self._readable(context, body, query), asked))

    def _open_statistics(
        self, bodies: Sequence[Body], query: Query, public: PublicContext, secret: bytes
    ) -> tuple[bytes, list[Measurement]]:
        self._check_measuring()
        context, private = _public_context(public.data, self.preset), _secret_context(secret, self.preset)
        asked, trial = ckks_statistics.encode_query(context, query, self.preset), Trial(private)
        parts: list[bytes] = []
        found: list[Measurement] = []
        for body in bodies:
            chunks = self._readable(context, body, query)
            parts += ckks_statistics.measure(chunks, asked)
            found += ckks_statistics.read(private, parts[-2:], query)
            if not found[-1].fault:
                trial.add(chunks)
        if not self._opens(trial, query.reference.size):
            found = [self._judged(body, item, query.reference.size, secret) for body, item in zip(bodies, found, strict=True)]
        return _join(parts), found

    def _readable(self, context: Any, body: Body, query: Query) -> list[Any]:
        """A submission's SEAL ciphertexts; none of one that cannot be read."""
        try:
            return [self._load(context, chunk).ciphertext()[0] for chunk in self._split(body, query.reference.size)]
        except IntegrityError:
            return []

    def _opens(self, trial: Trial, parameters: int) -> bool:
        """Whether a trial opens to integers in the places of a model's, as exactly as honest submissions do."""
        last = parameters - (self._chunks(parameters) - 1) * self._payload
        try:
            for opened, of_last in trial.opened():
                exact_integers(opened, last if of_last else self._payload, margin=self._honest_margin(trial.summands))
        except (SpoiltSumError, KeyMismatchError):
            return False
        return True

    def _judged(self, body: Body, found: Measurement, parameters: int, secret: bytes) -> Measurement:
        """At fault too when it alone does not open so."""
        try:
            if not found.fault:
                self._decrypt(body, parameters, secret, self._honest_margin(1))
        except (SpoiltSumError, KeyMismatchError):
            return Measurement(0, 0, NOT_REAL)
        return found

    def _honest_margin(self, summands: int) -> float:
        return TRIAL_DEVIATIONS * noise_deviation(self.preset, summands)

    def _check_measuring(self) -> None:
        if not self.preset.measures:
            msg = f"preset {self.preset.name} only adds; statistics of updates need encryption.preset=measuring"
            raise ValueError(msg)

    def _decrypt(self, body: Body, parameters: int, secret: bytes, margin: float | None = None) -> IntVector:
        context = _secret_context(secret, self.preset)
        total = np.empty(parameters, dtype=np.int32)
        for start, chunk in zip(range(0, parameters, self._payload), self._split(body, parameters), strict=True):
            opened = np.array(self._load(context, chunk).decrypt())
            part = total[start : start + self._payload]
            part[:] = exact_integers(opened, part.size, start, margin)
        return total

    def _chunks(self, parameters: int) -> int:
        return -(-parameters // self._payload)

    def _split(self, body: Body, parameters: int) -> Iterator[bytes]:
        """The chunks of a body, one after the other. Raises `IntegrityError` when they are not those of a vector of this length."""
        start, found = 0, 0
        while start < len(body) and found < self._chunks(parameters):
            end = start + _LENGTH_BYTES + int.from_bytes(body[start : start + _LENGTH_BYTES], "little")
            if end <= len(body):
                yield bytes(body[start + _LENGTH_BYTES : end])
            start, found = end, found + 1
        if start != len(body) or found != self._chunks(parameters):
            msg = f"the ciphertext is not {self._chunks(parameters)} chunks for {parameters} parameters: it is damaged or another model's"
            raise IntegrityError(msg)

    def _load(self, context: Any, chunk: bytes) -> Any:
        """One chunk as a TenSEAL vector, checked to be a fresh-looking ciphertext of this preset: SEAL checks the coefficients."""
        try:
            vector = ts.ckks_vector_from(context, chunk)
            ciphertexts = vector.ciphertext()
            found = (vector.size(), len(ciphertexts), ciphertexts[0].size(), ciphertexts[0].coeff_modulus_size(), ciphertexts[0].scale)
        except _SEAL_ERRORS as error:
            msg = f"a chunk of the ciphertext cannot be read: {error}; its site has to submit a ciphertext made by this program"
            raise IntegrityError(msg) from None
        expected = (self.preset.slots, 1, 2, len(self.preset.modulus_bits) - 1, 2.0**self.preset.scale_bits)
        if found != expected:
            msg = f"a chunk has (slots, ciphertexts, polynomials, primes, scale) {found}, preset {self.preset.name} has {expected}"
            raise IntegrityError(msg)
        return vector


def exact_integers(opened: npt.NDArray[np.float64], parameters: int, first: int = 0, margin: float | None = None) -> IntVector:
    """Round a decrypted chunk, float64 (slots,), to its first `parameters` integers, int32. first: the number of its first entry.

    margin: None for `MARGIN`.

    Raises `KeyMismatchError` when check slots are not zero: the key is not the one the ciphertext was made under, or a site did not
    encrypt by the rules; `SpoiltSumError` when a value is further than `margin` from an integer: noise beyond what the preset allows.
    """
    margin = MARGIN if margin is None else margin
    checks, values = opened[-CHECK_SLOTS:], opened[:-CHECK_SLOTS]
    if not bool((np.abs(checks) <= margin).all()):
        msg = "the aggregate does not open with this secret key: its check slots are not zero; use the keystore of this run"
        raise KeyMismatchError(msg)
    rounded = np.rint(values)
    distance = np.abs(values - rounded)
    if not bool((distance <= margin).all()):
        msg = (
            f"the aggregate does not open exactly: entry {first + int(np.argmax(distance))} lies {float(distance.max()):.3f} from an "
            f"integer, more than {margin:.3g}; a submission is not a fresh encryption under this run's preset"
        )
        raise SpoiltSumError(msg)
    if rounded[parameters:].any():
        msg = "the aggregate has values beyond the model's last parameter: a submission is longer than the model"
        raise SpoiltSumError(msg)
    if bool((np.abs(rounded) >= 2**31).any()):
        msg = "the aggregate has values beyond any round's bound: a submission was not encoded by the run's rules"
        raise SpoiltSumError(msg)
    return rounded[:parameters].astype(np.int32)


def _join(chunks: Iterable[bytes]) -> bytes:
    return b"".join(part for chunk in chunks for part in (len(chunk).to_bytes(_LENGTH_BYTES, "little"), chunk))


def _parts(body: bytes) -> list[bytes]:
    """What `_join` joined; nothing when the lengths do not add up."""
    chunks: list[bytes] = []
    start = 0
    while start < len(body):
        end = start + _LENGTH_BYTES + int.from_bytes(body[start : start + _LENGTH_BYTES], "little")
        chunks.append(body[start + _LENGTH_BYTES : end])
        start = end
    return chunks if start == len(body) else []


@lru_cache(maxsize=8)
def _public_context(data: bytes, preset: Preset) -> Any:
    """A public context's TenSEAL object. Secret ones are parsed each time, so that they live no longer than their use."""
    context = _parse_context(data, preset, "public context")
    if context.is_private():
        msg = "the public context contains a secret key: it must not be distributed; make new keys for this run"
        raise IntegrityError(msg)
    if not context.has_public_key():
        msg = "the public context has no public key: nothing can be encrypted under it; make new keys for this run"
        raise IntegrityError(msg)
    return context


def _secret_context(data: bytes, preset: Preset) -> Any:
    context = _parse_context(data, preset, "secret context")
    if not context.is_private():
        msg = "the secret context has no secret key: nothing can be opened with it; use the keystore of this run"
        raise KeyMismatchError(msg)
    return context


def _parse_context(data: bytes, preset: Preset, what: str) -> Any:
    """A TenSEAL context with the preset's parameters; SEAL itself refuses parameters below 128-bit security."""
    try:
        context = ts.context_from(data, n_threads=1)
        parameters = context.seal_context().data.key_context_data().parms()
        bits = tuple(modulus.bit_count() for modulus in parameters.coeff_modulus())
        found = (parameters.poly_modulus_degree(), bits, context.global_scale)
    except _SEAL_ERRORS:
        # SEAL's message is left out: for a secret context it could quote what it failed to parse.
        msg = f"the {what} cannot be read: it is damaged or written by another version; make new keys for this run"
        raise IntegrityError(msg) from None
    expected = (preset.degree, preset.modulus_bits, 2.0**preset.scale_bits)
    if found != expected:
        msg = f"the {what} has (degree, modulus bits, scale) {found}, preset {preset.name} has {expected}: make new keys for this run"
        raise IntegrityError(msg)
    return context
