"""No encryption: the baseline that the others are compared with, bit for bit. Used only where a person asks for it by name."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence

import numpy as np

from cifer_tasks.encryption._shared import SharedKeyScheme
from cifer_tasks.encryption.scheme import Ciphertext, PublicContext, SecretContext
from cifer_tasks.encryption.statistics import Measurement, Query, measure_integers
from cifer_tasks.encryption.vectors import PIECE, IntVector, Vector, integers_from_bytes, integers_to_bytes, pieces
from cifer_tasks.errors import IntegrityError
from cifer_tasks.files import Body


class PlainScheme(SharedKeyScheme):
    """Submissions are readable by everyone who can read the artifact store; 4 bytes a parameter.

    Its contexts hold a random identifier, so that submissions of another run are refused as with a real key.
    """

    name = "plain"
    warning = "encryption.scheme=plain: nothing is encrypted; the aggregator and everyone with the artifact store read each site's update"

    def generate(self) -> tuple[PublicContext, SecretContext]:
        """A random identifier; there is no secret."""
        public = PublicContext(self.name, b"cifer/plain/1:" + secrets.token_bytes(16))
        return public, SecretContext(self.name, public.digest())

    def _encrypt(self, values: Vector, public: PublicContext) -> bytes:
        return b"".join(map(integers_to_bytes, pieces(values)))

    def _add(self, bodies: Sequence[Body], parameters: int, public: PublicContext, factors: Sequence[int]) -> bytes:
        total = np.zeros(parameters, dtype=np.int32)
        for body, factor in zip(bodies, factors, strict=True):
            for number, piece in enumerate(pieces(integers_from_bytes(body, parameters))):
                total[number * PIECE : number * PIECE + piece.size] += piece if factor == 1 else factor * piece
        return integers_to_bytes(total)

    def _measure(self, bodies: Sequence[Body], query: Query, public: PublicContext) -> bytes:
        found = [measure_integers(integers_from_bytes(body, query.reference.size), query) for body in bodies]
        return json.dumps([[item.square, item.inner, item.fault] for item in found]).encode()

    def _open_statistics(
        self, bodies: Sequence[Body], query: Query, public: PublicContext, secret: bytes
    ) -> tuple[bytes, list[Measurement]]:
        measured = self._measure(bodies, query, public)
        return measured, [Measurement(*fields) for fields in json.loads(measured)]

    def _decrypt(self, body: Body, parameters: int, secret: bytes) -> IntVector:
        return np.concatenate(list(pieces(integers_from_bytes(body, parameters))))


def read_submission(submission: Ciphertext) -> Vector:
    """What one site submitted in the clear, int32 (d,), read-only. Raises `IntegrityError` for a submission of any other scheme."""
    if submission.scheme != PlainScheme.name:
        msg = f"a submission under encryption.scheme={submission.scheme} cannot be read, only summed; rules on single updates need plain"
        raise IntegrityError(msg)
    return integers_from_bytes(submission.data, submission.binding.parameters)
