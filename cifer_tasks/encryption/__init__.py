"""Encryption of updates: exact sums of integer vectors, opened only for a sealed set. `scheme.py` is the interface; read it first.

Libraries load when a family is asked for, not when this package is imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cifer_tasks.encryption.scheme import Binding, Ciphertext, Opening, PublicContext, Scheme, SecretContext

if TYPE_CHECKING:
    from cifer_tasks.config import Encryption

__all__ = ["Binding", "Ciphertext", "Opening", "PublicContext", "Scheme", "SecretContext", "scheme_for"]


def scheme_for(settings: Encryption, bucket_size: int = 0) -> Scheme:
    """The family that the settings name, configured; it holds no keys. bucket_size: least size of buckets, where those are opened."""
    if settings.selective < 1.0:
        from cifer_tasks.encryption.selective import SelectiveScheme

        return SelectiveScheme(_family(settings, bucket_size), settings.selective)
    return _family(settings, bucket_size)


def _family(settings: Encryption, bucket_size: int) -> Scheme:
    match settings.scheme:
        case "threshold":
            from cifer_tasks.encryption.threshold import ThresholdScheme

            return ThresholdScheme(bucket_size=bucket_size, holders=settings.holders)
        case "ckks":
            from cifer_tasks.encryption.ckks import CkksScheme

            return CkksScheme(settings.preset, settings.bits)
        case "plain":
            from cifer_tasks.encryption.plain import PlainScheme

            return PlainScheme()
