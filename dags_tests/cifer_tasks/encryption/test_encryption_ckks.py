"""CKKS: the noise model, the refusal of inexact openings, and what the public context does not contain."""

from __future__ import annotations

import copy
import pickle
import traceback
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tenseal as ts

from cifer_tasks.encryption import Binding, Ciphertext, PublicContext, SecretContext
from cifer_tasks.encryption import ckks as module
from cifer_tasks.encryption.ckks import CkksScheme, lean, noise_deviation, nvflare, refusal_probability_log2
from cifer_tasks.errors import CiferError, IntegrityError, KeyMismatchError

BOUND = 2**23 + 1000
BINDING = Binding("cd" * 32, "run-1", 1, 6000, BOUND)


def opened_slots(keyed: Any, aggregate: Ciphertext) -> np.ndarray:
    """Decrypted slots before rounding, check slots included."""
    scheme: CkksScheme = keyed.scheme
    context = module._secret_context(keyed.secret.reveal()[32:], scheme.preset)
    chunks = scheme._split(aggregate.data, aggregate.binding.parameters)
    return np.array([scheme._load(context, chunk).decrypt() for chunk in chunks])


@pytest.mark.parametrize("sites", [1, 16])
def test_measured_noise_is_what_the_model_says(families: dict[str, Any], sites: int) -> None:
    """The deviation of opened slots of the lean preset is the formula's within 10%, for one site and for a sum."""
    keyed = families["lean"]
    scheme, public = keyed.scheme, keyed.public
    values = np.random.default_rng(1).integers(-BOUND // sites, BOUND // sites, 6000)
    aggregate = scheme.add([scheme.encrypt(values, BINDING, public) for _ in range(sites)], public)
    slots = opened_slots(keyed, aggregate)
    noise = slots - np.rint(slots)
    assert noise.std() == pytest.approx(noise_deviation(scheme.preset, sites), rel=0.1)


@pytest.mark.parametrize("bits", range(8, 31))
def test_presets_keep_whole_models_exact(bits: int) -> None:
    """25 million parameters from 1000 sites: an honest opening is refused with probability below 2^-64, and the modulus holds the sum."""
    for preset in (lean(bits), nvflare(bits)):
        assert refusal_probability_log2(preset, 25_000_000, 1000) < -64
        assert preset.capacity >= 2 ** (bits - 1) + 1000
        assert sum(preset.modulus_bits) <= {4096: 109, 8192: 218}[preset.degree]


def test_a_smaller_lean_scale_would_not_do() -> None:
    """The lean scale is the smallest power of two that keeps the promise: with one bit less the probability is too large."""
    smaller = replace(lean(24), scale_bits=19)
    assert refusal_probability_log2(smaller, 25_000_000, 1000) > -64


def test_a_smaller_lean_modulus_would_wrap_around() -> None:
    """With one bit less in the data prime, the bound of 24-bit encodings with 1000 sites no longer fits."""
    preset = lean(24)
    assert replace(preset, modulus_bits=(preset.modulus_bits[0] - 1, 20)).capacity < BOUND


def test_insecure_parameters_do_not_make_a_context(monkeypatch: pytest.MonkeyPatch) -> None:
    """SEAL refuses a modulus beyond the 128-bit limit of N = 4096, so no preset can drift below it."""
    scheme = CkksScheme()
    monkeypatch.setattr(scheme, "preset", replace(scheme.preset, modulus_bits=(60, 50)))
    with pytest.raises(ValueError, match="not set correctly"):
        scheme.generate()


def offset_ciphertext(keyed: Any, offset: float, slot: int) -> Ciphertext:
    """A submission that encrypts `offset` instead of an integer in one slot, made with TenSEAL directly as a cheating site would."""
    public: PublicContext = keyed.public
    slots = np.zeros(2048)
    slots[slot] = offset
    body = module._join([ts.ckks_vector(ts.context_from(public.data, n_threads=1), slots).serialize()])
    return Ciphertext("ckks", replace(BINDING, parameters=100), public.digest(), 1, body)


@pytest.mark.parametrize("offset", [0.35, 0.5, -0.4, 1000.4])
def test_inexact_openings_are_refused(lean: Any, offset: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A value further than the margin from an integer is refused, naming its entry; without the margin it would pass unnoticed."""
    scheme = lean.scheme
    hostile = offset_ciphertext(lean, offset, 42)
    with pytest.raises(IntegrityError, match=r"entry 42 lies 0\.[345]"):
        scheme.release({"a": hostile}, "a", lean.public, lean.secret)
    monkeypatch.setattr(module, "MARGIN", 0.5000001)
    scheme.release({"a": hostile}, "a", lean.public, lean.secret)


def test_values_outside_the_model_are_refused(lean: Any) -> None:
    """Integers in padding slots, in check slots, or beyond the bound do not open: a site cannot hide values there."""
    scheme, secret = lean.scheme, lean.secret
    with pytest.raises(IntegrityError, match="beyond the model's last parameter"):
        scheme.release({"a": offset_ciphertext(lean, 5.0, 100)}, "a", lean.public, secret)
    with pytest.raises(KeyMismatchError, match="check slots"):
        scheme.release({"a": offset_ciphertext(lean, 5.0, 2047)}, "a", lean.public, secret)
    with pytest.raises(IntegrityError, match="beyond the bound"):
        scheme.release({"a": offset_ciphertext(lean, float(BOUND + 1), 7)}, "a", lean.public, secret)


def test_chunks_have_to_fill_the_body_exactly(lean: Any) -> None:
    """A last chunk whose length points past the body's end, a missing and a surplus chunk are refused before SEAL sees them."""
    scheme = lean.scheme
    body = module._join([b"one", b"two", b"three"])
    assert list(scheme._split(body, 6000)) == [b"one", b"two", b"three"]
    for wrong in (body[:-1], body[:-5], body[:-9], body + b"\0", module._join([b"one"] * 2), module._join([b"one"] * 4), b""):
        with pytest.raises(IntegrityError, match="not 3 chunks for 6000 parameters"):
            list(scheme._split(wrong, 6000))


def test_non_finite_slots_are_refused() -> None:
    """Decoding that yields NaN or infinity never becomes an integer."""
    for bad in (np.nan, np.inf):
        opened = np.zeros(16)
        opened[3] = bad
        with np.errstate(invalid="ignore"), pytest.raises(IntegrityError):
            module.exact_integers(opened, 8)
        opened = np.zeros(16)
        opened[12] = bad
        with pytest.raises(KeyMismatchError):
            module.exact_integers(opened, 8)


# ---------------------------------------------------------------------------------------------------- secrets


def windows(secret: SecretContext) -> list[bytes]:
    """Pieces of the secret key's bytes; the parameters around it, at both ends, are public."""
    data = secret.reveal()
    assert len(data) > 20_000
    return [data[start : start + 16] for start in range(2000, len(data) - 1000, 97)]


@pytest.mark.parametrize("family", ["lean", "nvflare"])
def test_public_context_and_ciphertexts_hold_no_secret(families: dict[str, Any], family: str) -> None:
    """TenSEAL finds no secret key in the public context, and no piece of the secret's bytes occurs in anything that is shared."""
    keyed = families[family]
    scheme, public, secret = keyed.scheme, keyed.public, keyed.secret
    assert not ts.context_from(public.data).is_private()
    assert ts.context_from(secret.reveal()[32:]).is_private()
    ciphertext = scheme.encrypt(np.ones(6000, dtype=np.int64), BINDING, public)
    aggregate = scheme.add([ciphertext], public)
    opening = scheme.release({"a": aggregate}, "a", public, secret)
    shared = b"".join((public.data, ciphertext.to_bytes(), aggregate.to_bytes(), opening.to_bytes()))
    pieces = windows(secret)
    assert not any(piece in shared for piece in pieces)
    assert all(piece in secret.reveal() for piece in pieces)


def test_a_public_context_with_a_secret_inside_is_refused(lean: Any) -> None:
    """The mutant that hands the aggregator secret bytes dressed as a public context is caught when it is first used."""
    dressed = PublicContext("ckks", lean.secret.reveal()[32:])
    scheme = lean.scheme
    with pytest.raises(IntegrityError, match="contains a secret key"):
        scheme.encrypt(np.ones(6000, dtype=np.int64), BINDING, dressed)
    honest = scheme.encrypt(np.ones(6000, dtype=np.int64), BINDING, lean.public)
    with pytest.raises(IntegrityError, match="contains a secret key"):
        scheme.add([replace(honest, context=dressed.digest())], dressed)


def test_a_secret_context_without_its_key_is_named(lean: Any) -> None:
    """Public bytes in a secret context's place are refused before decrypting."""
    scheme, public = lean.scheme, lean.public
    aggregate = scheme.encrypt(np.ones(6000, dtype=np.int64), BINDING, public)
    with pytest.raises(KeyMismatchError, match="has no secret key"):
        scheme.release({"a": aggregate}, "a", public, SecretContext("ckks", public.digest() + public.data))


def test_secrets_do_not_show(lean: Any) -> None:
    """A secret context does not print, pickle or copy, and errors raised while it is in use quote none of it."""
    secret: SecretContext = lean.secret
    for dump in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="cannot be pickled or copied"):
            dump(secret)
    shown = [repr(secret), str(secret), f"{secret}", repr([secret]), repr(lean.public)]
    scheme = lean.scheme
    aggregate = scheme.encrypt(np.ones(6000, dtype=np.int64), BINDING, lean.public)
    shown.append(repr(aggregate))
    damaged = bytearray(secret.reveal())
    damaged[5000] ^= 255
    for key in (bytes(damaged), secret.reveal()[:-10], secret.reveal()[:40]):
        try:
            scheme.release({"a": aggregate}, "a", lean.public, SecretContext("ckks", key))
        except CiferError as error:
            shown.append("".join(traceback.format_exception(error)))
    assert len(shown) > 6
    pieces = [form for piece in windows(secret) for form in (piece.hex(), repr(piece)[2:-1])]
    assert not any(piece in text for piece in pieces for text in shown)
