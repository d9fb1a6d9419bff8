"""No encryption: the baseline that the others are compared with, bit for bit. Used only where a person asks for it by name."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence

import numpy as np

from cifer_tasks.encryption._shared import SharedKeyScheme
from cifer_tasks.encryption.scheme import Ciphertext, IntVector, PublicContext, SecretContext
from cifer_tasks.encryption.statistics import Measurement, Query, measure_integers
from cifer_tasks.encryption.vectors import integers_from_bytes, integers_to_bytes
from cifer_tasks.errors import IntegrityError


class PlainScheme(SharedKeyScheme):
    """Submissions are readable by everyone who can read the artifact store; 8 bytes a parameter.

    Its contexts hold a random identifier, so that submissions of another run are refused as with a real key.
    """

    name = "plain"
    warning = "encryption.scheme=plain: nothing is encrypted; the aggregator and everyone with the artifact store read each site's update"

    def generate(self) -> tuple[PublicContext, SecretContext]:
        """A random identifier; there is no secret."""
        public = PublicContext(self.name, b"cifer/plain/1:" + secrets.token_bytes(16))
        return public, SecretContext(self.name, public.digest())

    def _encrypt(self, values: IntVector, public: PublicContext) -> bytes:
        return integers_to_bytes(values)

    def _add(self, bodies: Sequence[bytes], parameters: int, public: PublicContext, factors: Sequence[int]) -> bytes:
        total = np.zeros(parameters, dtype=np.int64)
        for body, factor in zip(bodies, factors, strict=True):
            total += factor * integers_from_bytes(body, parameters)
        return integers_to_bytes(total)

    def _measure(self, bodies: Sequence[bytes], query: Query, public: PublicContext) -> bytes:
        found = [measure_integers(integers_from_bytes(body, query.reference.size), query) for body in bodies]
        return json.dumps([[item.square, item.inner, item.fault] for item in found]).encode()

    def _read(self, measured: bytes, count: int, query: Query, secret: bytes) -> list[Measurement]:
        return [Measurement(*fields) for fields in json.loads(measured)]

    def _decrypt(self, body: bytes, parameters: int, secret: bytes) -> IntVector:
        return integers_from_bytes(body, parameters)


def read_submission(submission: Ciphertext) -> IntVector:
    """What one site submitted in the clear, int64 (d,), read-only. Raises `IntegrityError` for a submission of any other scheme."""
    if submission.scheme != PlainScheme.name:
        msg = f"a submission under encryption.scheme={submission.scheme} cannot be read, only summed; rules on single updates need plain"
        raise IntegrityError(msg)
    return integers_from_bytes(submission.data, submission.binding.parameters)
