"""Evaluating on ciphertext commutes with decrypting; what was tampered with, or does not belong together, is refused."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import tenseal.sealapi as seal
from hypothesis import given, settings
from hypothesis import strategies as st

from cifer_tasks.errors import IntegrityError, UsageError
from cifer_tasks.inference.client import ClientKeys, EvaluationKeys, galois_element, read_keys
from cifer_tasks.inference.evaluator import Evaluator
from cifer_tasks.inference.networks import Network, error_bound, folded
from cifer_tasks.inference.parameters import Parameters, context, saved

SQUARE, RELU, CUBIC = (0.0, 0.0, 1.0), (0.375, 0.5, 0.1171875), (0.5, 0.15, 0.02, -0.0016)


def network(widths: Sequence[int], polynomials: Sequence[tuple[float, ...]], seed: int) -> Network:
    """A network with normal weights scaled by their number."""
    random = np.random.default_rng(seed)
    affine = [
        (random.normal(size=(after, before)) / np.sqrt(before), random.normal(size=after)) for before, after in itertools.pairwise(widths)
    ]
    return folded(affine, polynomials)


@lru_cache(maxsize=8)
def keys(levels: int, width: int) -> ClientKeys:
    """A client's keys, made once for these parameters."""
    return ClientKeys(Parameters(levels, width))


def evaluated(evaluator: Evaluator, rows: Any) -> Any:
    """Rows through encryption, upload, evaluation and decryption."""
    client = keys(evaluator.parameters.levels, evaluator.parameters.width)
    parameters, galois, relinearisation = read_keys(client.public)
    assert parameters == evaluator.parameters
    results = tuple(evaluator.evaluate(data, galois, relinearisation) for data in client.encrypt(rows))
    return client.decrypt(results, len(rows), evaluator.network.outputs)


@given(
    widths=st.tuples(st.integers(1, 40), st.integers(1, 9), st.integers(2, 12)),
    activation=st.sampled_from([None, SQUARE, RELU, CUBIC]),
    rows=st.integers(1, 130),
    largest=st.sampled_from([0.0, 1e-6, 1.0, 5.0, 20.0]),
    seed=st.integers(0, 2**32),
)
@settings(deadline=None, max_examples=15)
def test_decrypting_after_computing_is_computing_in_the_clear(
    widths: tuple[int, int, int], activation: tuple[float, ...] | None, rows: int, largest: float, seed: int
) -> None:
    """For random models, numbers of rows, and entries from 0 to 20 with both extremes, results agree within the stated error."""
    made = network(widths[::2], (), seed) if activation is None else network(widths, (activation,), seed)
    evaluator = Evaluator(made)
    values = np.random.default_rng(seed).uniform(-largest, largest, (rows, widths[0]))
    values[0], values[-1] = largest, -largest
    difference = np.abs(evaluated(evaluator, values) - made.in_the_clear(values)).max()
    assert difference <= error_bound(made, evaluator.parameters, largest)


@pytest.mark.parametrize(("widths", "polynomials"), [((3, 4, 4, 2), (RELU, RELU)), ((5, 3, 7, 2), (CUBIC, CUBIC)), ((250, 4), ())])
def test_deep_and_wide_networks(widths: tuple[int, ...], polynomials: tuple[Any, ...]) -> None:
    """Two hidden layers of squares or cubics, and the widest layer, at their own parameters, within the stated error, which is not idle."""
    made = network(widths, polynomials, 3)
    evaluator = Evaluator(made)
    rows = np.random.default_rng(4).normal(size=(2, widths[0]))
    bound = error_bound(made, evaluator.parameters, float(np.abs(rows).max()))
    assert np.abs(evaluated(evaluator, rows) - made.in_the_clear(rows)).max() <= bound < 0.1


def test_a_wrong_diagonal_is_noticed() -> None:
    """Mutant: diagonals that run the other way, what one gets by rotating to the wrong side, break the agreement above."""

    class Backwards(Evaluator):
        def _diagonals(self, step: Any, level: Any, scale: float) -> Any:
            given = super()._diagonals(step, level, scale)
            return {(giant, self.parameters.stride - 1 - baby): plain for (giant, baby), plain in given.items()}

    made = network((6, 2), (), 5)
    rows = np.eye(6)
    difference = np.abs(evaluated(Backwards(made), rows) - made.in_the_clear(rows)).max()
    assert difference > 100 * error_bound(made, Parameters(made.levels, made.width), 1.0)


def test_what_is_uploaded_holds_no_secret() -> None:
    """The uploaded keys are Galois and relinearisation keys, and hold nothing of the secret key, not even reduced to one prime's residues.

    The mutant that puts the secret key in the place of the rotation keys is refused by the server.
    """
    parameters = Parameters(3, 4)
    generator = seal.KeyGenerator(context(parameters))
    secret = saved(generator.secret_key())
    client = ClientKeys(parameters)
    assert set(EvaluationKeys.__struct_fields__) == {"levels", "width", "rotation", "relinearisation"}
    with pytest.raises(IntegrityError, match="rotation keys"):
        read_keys(EvaluationKeys(3, 4, secret, b"").to_bytes())
    opened = seal.Ciphertext()
    plain = seal.Plaintext()
    seal.CKKSEncoder(context(parameters)).encode([1.0], 2.0**30, plain)
    seal.Encryptor(context(parameters), generator.secret_key()).encrypt_symmetric(plain, opened)
    with pytest.raises(IntegrityError, match="under another key"):
        client.decrypt((saved(opened),), 1, 1)
    for leak in (lambda: pickle.dumps(client), lambda: copy.deepcopy(client)):
        with pytest.raises(TypeError, match="do not leave"):
            leak()
    assert repr(client) == f"ClientKeys({parameters}, digest={client.digest[:16]}...)"


@given(position=st.integers(0, 10**6), cut=st.booleans(), bit=st.integers(0, 7))
@settings(deadline=None, max_examples=30)
def test_damaged_bytes_are_refused_or_do_not_open(position: int, cut: bool, bit: int) -> None:
    """A ciphertext, result or key with any bit flipped or its end missing raises `IntegrityError` somewhere before a number comes out.

    A flipped bit of the body that SEAL still takes changes polynomials all over, so slots that have to be zero are not.
    """
    evaluator = _small()
    client = keys(evaluator.parameters.levels, evaluator.parameters.width)
    _, galois, relinearisation = read_keys(client.public)
    rows = np.ones((1, 3))

    def damaged(data: bytes) -> bytes:
        if cut:
            return data[: position % len(data)]
        at = position % len(data)
        return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]

    (sent,) = client.encrypt(rows)
    expected = evaluator.network.in_the_clear(rows)
    bound = error_bound(evaluator.network, evaluator.parameters, 1.0)
    with suppress(IntegrityError):
        found = client.decrypt((evaluator.evaluate(damaged(sent), galois, relinearisation),), 1, 2)
        assert np.abs(found - expected).max() <= bound  # a bit that carries nothing, such as padding of SEAL's header
    back = evaluator.evaluate(sent, galois, relinearisation)
    with suppress(IntegrityError):
        assert np.abs(client.decrypt((damaged(back),), 1, 2) - expected).max() <= bound


@lru_cache(maxsize=1)
def _small() -> Evaluator:
    return Evaluator(network((3, 2), (), 1))


def test_what_does_not_belong_together_is_refused() -> None:
    """Results under another key, a used ciphertext, keys without a rotation, and another number of results are each told apart."""
    evaluator = _small()
    client = keys(evaluator.parameters.levels, evaluator.parameters.width)
    _, galois, relinearisation = read_keys(client.public)
    (sent,) = client.encrypt(np.ones((1, 3)))
    result = evaluator.evaluate(sent, galois, relinearisation)
    with pytest.raises(IntegrityError, match="does not open"):
        ClientKeys(evaluator.parameters).decrypt((result,), 1, 2)
    with pytest.raises(IntegrityError, match="another level than fresh rows"):
        evaluator.evaluate(result, galois, relinearisation)
    with pytest.raises(IntegrityError, match="2 results came back for 1 rows"):
        client.decrypt((result, result), 1, 2)
    lacking = saved(seal.KeyGenerator(context(evaluator.parameters)).create_galois_keys([galois_element(1, 8192)]))
    with pytest.raises(IntegrityError, match=r"lack .*rotations \[-4"):
        read_keys(EvaluationKeys(evaluator.parameters.levels, evaluator.parameters.width, lacking, b"").to_bytes())
    with pytest.raises(IntegrityError, match="no evaluation keys"):
        read_keys(b"\x81")
    with pytest.raises(IntegrityError, match="no evaluation keys: 9 multiplications"):
        read_keys(EvaluationKeys(9, 4, b"", b"").to_bytes())


def test_what_wraps_around_is_noticed() -> None:
    """Features that are not finite or do not fit are refused before encryption; results that do not fit are refused after it."""
    client = keys(1, 4)
    for value in (np.nan, np.inf, 1e5):
        with pytest.raises(UsageError, match="finite numbers up to"):
            client.encrypt([[value, 0.0, 0.0]])
    evaluator = Evaluator(folded([(np.full((2, 3), 3000.0), np.zeros(2))], ()))
    rows = np.full((evaluator.parameters.rows, 3), 8000.0)
    with pytest.raises(IntegrityError, match="passed what the parameters hold"):
        evaluated(evaluator, rows)


@given(step=st.integers(-2000, 2000).filter(bool))
@settings(deadline=None, max_examples=10)
def test_galois_elements_are_seals(step: int) -> None:
    """A key for `galois_element(step)` is the one that SEAL takes to rotate by `step`."""
    parameters = Parameters(1, 4)
    made = context(parameters)
    generator, encoder, rotation = seal.KeyGenerator(made), seal.CKKSEncoder(made), seal.GaloisKeys()
    generator.create_galois_keys([galois_element(step, parameters.degree)], rotation)
    slots = np.arange(parameters.slots) / parameters.slots
    plain, ciphertext = seal.Plaintext(), seal.Ciphertext()
    encoder.encode(slots.tolist(), 2.0**30, plain)
    seal.Encryptor(made, generator.secret_key()).encrypt_symmetric(plain, ciphertext)
    seal.Evaluator(made).rotate_vector_inplace(ciphertext, step, rotation)
    seal.Decryptor(made, generator.secret_key()).decrypt(ciphertext, plain)
    assert np.allclose(encoder.decode_double(plain), np.roll(slots, -step), atol=1e-4)
