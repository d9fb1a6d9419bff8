"""What client and server say to each other over HTTP.

    GET  /v1/models/{name}/{alias or version}              -> Description, JSON
    PUT  /v1/keys/{hex SHA-256 of the body}                   EvaluationKeys -> 204
    POST /v1/models/{name}/{version}/predictions              Question -> Answer; 409 when the keys are not, or no longer, there

Bodies of PUT and POST are MessagePack; errors are JSON, ``{"detail": sentence}``.
"""

from __future__ import annotations

from typing import Final

import msgspec

MOST_KEY_BYTES: Final = 48 * 1024 * 1024
MOST_QUESTION_BYTES: Final = 32 * 1024 * 1024
MOST_CIPHERTEXTS: Final = 32
PREDICT_PATH: Final = "/v1/models/{name}/{version}/predictions"


class Description(msgspec.Struct, frozen=True):
    """All that a client learns of a model version before it asks: public.

    levels, width: of its `Parameters`.  layers: for people.  features, mean, scale, target, labels: its `Preprocessing`.
    error: largest difference from inference in the clear on rows whose prepared features are at most `error_at` in absolute value.
    """

    name: str
    version: int
    digest: str
    levels: int
    width: int
    layers: str
    features: tuple[str, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    target: str
    labels: tuple[str, ...]
    error: float
    error_at: float


class Question(msgspec.Struct, frozen=True):
    """keys: hex digest of evaluation keys that were uploaded.  ciphertexts: rows, as `ClientKeys.encrypt` made them."""

    keys: str
    ciphertexts: tuple[bytes, ...]


class Answer(msgspec.Struct, frozen=True):
    """ciphertexts: results, one for each of the question's.  evaluate_seconds: what the computation alone took."""

    ciphertexts: tuple[bytes, ...]
    evaluate_seconds: float
