"""The client's half: keys, encryption of rows, decryption of results. The secret key lives in this process's memory and nowhere else."""

from __future__ import annotations

import hashlib
import math
from typing import Any, Final, NoReturn

import msgspec
import numpy as np
import numpy.typing as npt
import tenseal.sealapi as seal

from cifer_tasks.errors import IntegrityError, UsageError
from cifer_tasks.inference.parameters import SEAL_ERRORS, Parameters, context, loaded, saved

ZERO_TOLERANCE: Final = 2.0**-8
"""What a slot that has to be zero may open to."""

Floats = npt.NDArray[np.float64]


class EvaluationKeys(msgspec.Struct, frozen=True):
    """What a server needs to compute on a client's ciphertexts: public, and no help in opening them.

    relinearisation: empty when nothing is squared.  Both in SEAL's own form, with seeds in place of their random halves.
    """

    levels: int
    width: int
    rotation: bytes
    relinearisation: bytes

    def to_bytes(self) -> bytes:
        """MessagePack."""
        return msgspec.msgpack.encode(self)


class ClientKeys:
    """A fresh key pair for one client and one set of parameters, from SEAL's generator, seeded by the operating system.

    public: the bytes to upload; digest: their hex SHA-256, under which a server keeps them.
    """

    __slots__ = ("_decryptor", "_encryptor", "digest", "parameters", "public")

    def __init__(self, parameters: Parameters) -> None:
        made = context(parameters)
        generator = seal.KeyGenerator(made)
        secret = generator.secret_key()
        self.parameters = parameters
        self._encryptor = seal.Encryptor(made, secret)
        self._decryptor = seal.Decryptor(made, secret)
        elements = [galois_element(step, parameters.degree) for step in parameters.rotations]
        rotation = saved(generator.create_galois_keys(elements))
        relinearisation = saved(generator.create_relin_keys()) if parameters.levels > 1 else b""
        self.public = EvaluationKeys(parameters.levels, parameters.width, rotation, relinearisation).to_bytes()
        self.digest = hashlib.sha256(self.public).hexdigest()

    def __repr__(self) -> str:
        return f"ClientKeys({self.parameters}, digest={self.digest[:16]}...)"

    def __reduce__(self) -> NoReturn:
        msg = "a client's keys do not leave its process"
        raise TypeError(msg)

    def encrypt(self, rows: npt.ArrayLike) -> tuple[bytes, ...]:
        """Ciphertexts of rows (n, d), `parameters.rows` rows each, the last one filled up with zeros.

        Raises `UsageError` when an entry is not finite, or so large that it would wrap around before anything is computed.
        """
        values = np.asarray(rows, dtype=np.float64)
        if not np.isfinite(values).all() or (values.size and float(np.abs(values).max()) > self.parameters.largest):
            worst = float(np.abs(np.nan_to_num(values, nan=math.inf)).max())
            msg = f"a prepared feature is {worst}: encrypted rows hold finite numbers up to {self.parameters.largest}; correct that row"
            raise UsageError(msg)
        per = self.parameters.rows
        return tuple(self._encrypt(values[start : start + per]) for start in range(0, values.shape[0], per))

    def _encrypt(self, rows: Floats) -> bytes:
        slots = np.zeros((self.parameters.rows, self.parameters.block))
        for start in (0, self.parameters.width):
            slots[: rows.shape[0], start : start + rows.shape[1]] = rows
        plain = seal.Plaintext()
        seal.CKKSEncoder(context(self.parameters)).encode(slots.ravel().tolist(), 2.0**self.parameters.scale_bits, plain)
        return saved(self._encryptor.encrypt_symmetric(plain))

    def decrypt(self, ciphertexts: tuple[bytes, ...], rows: int, outputs: int) -> Floats:
        """The results of `rows` rows, float64 (rows, outputs).

        Raises `IntegrityError` for bytes that are no ciphertexts, a number of them that does not fit `rows`, or slots that have to be zero
        and are not: computed under another key, damaged, or too large for the parameters, which wraps around everywhere.
        """
        per = self.parameters.rows
        if len(ciphertexts) != -(-rows // per):
            msg = f"{len(ciphertexts)} results came back for {rows} rows, {per} to a ciphertext; ask again"
            raise IntegrityError(msg)
        parts = [self._decrypt(data, outputs) for data in ciphertexts]
        return np.concatenate([np.empty((0, outputs)), *parts])[:rows]

    def _decrypt(self, data: bytes, outputs: int) -> Floats:
        made = context(self.parameters)
        ciphertext = loaded(seal.Ciphertext, self.parameters, data, "a result")
        plain = seal.Plaintext()
        try:
            self._decryptor.decrypt(ciphertext, plain)
            opened = np.array(seal.CKKSEncoder(made).decode_double(plain)).reshape(self.parameters.rows, self.parameters.block)
        except SEAL_ERRORS as error:
            msg = f"a result cannot be opened ({' '.join(str(error).split())}); ask again"
            raise IntegrityError(msg) from None
        if not bool((np.abs(opened[:, outputs:]) <= ZERO_TOLERANCE).all()):
            msg = (
                "a result does not open: slots that have to be zero are not. Either it was computed under another key or damaged, or a "
                "value on the way passed what the parameters hold: look for rows far outside what the model was trained on"
            )
            raise IntegrityError(msg)
        return np.asarray(opened[:, :outputs])


def read_keys(data: bytes) -> tuple[Parameters, Any, Any]:
    """(parameters, Galois keys, relinearisation keys or None) from uploaded bytes.

    Raises `IntegrityError` when they are no evaluation keys, or a rotation is missing.
    """
    try:
        given = msgspec.msgpack.decode(data, type=EvaluationKeys)
        parameters = Parameters(given.levels, given.width)
    except (msgspec.MsgspecError, UsageError) as error:
        msg = f"the uploaded bytes are no evaluation keys: {error}"
        raise IntegrityError(msg) from None
    galois = loaded(seal.GaloisKeys, parameters, given.rotation, "the rotation keys")
    missing = [step for step in parameters.rotations if not galois.has_key(galois_element(step, parameters.degree))]
    relinearisation = (
        loaded(seal.RelinKeys, parameters, given.relinearisation, "the relinearisation keys") if parameters.levels > 1 else None
    )
    if missing or (relinearisation is not None and not relinearisation.has_key(2)):
        msg = f"the evaluation keys lack what the parameters need (rotations {missing or 'complete'}); make them again"
        raise IntegrityError(msg)
    return parameters, galois, relinearisation


def galois_element(step: int, degree: int) -> int:
    """The automorphism X -> X^e that rotates slots by `step` to the left: e = 3^step mod 2N (SEAL's generator)."""
    return pow(3, step % (degree // 2), 2 * degree)
