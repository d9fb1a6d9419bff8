"""No encryption: the baseline that the others are compared with, bit for bit. Used only where a person asks for it by name."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import numpy as np

from cifer_tasks.encryption._shared import SharedKeyScheme
from cifer_tasks.encryption.scheme import PublicContext, SecretContext
from cifer_tasks.encryption.vectors import PIECE, IntVector, Vector, integers_from_bytes, integers_to_bytes, pieces
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

    def _add(self, bodies: Sequence[Body], parameters: int, public: PublicContext) -> bytes:
        total = np.zeros(parameters, dtype=np.int32)
        for body in bodies:
            for number, piece in enumerate(pieces(integers_from_bytes(body, parameters))):
                total[number * PIECE : number * PIECE + piece.size] += piece
        return integers_to_bytes(total)

    def _decrypt(self, body: Body, parameters: int, secret: bytes) -> IntVector:
        return np.concatenate(list(pieces(integers_from_bytes(body, parameters))))
