"""A model's weights as bytes and as a vector. The SHA-256 of the bytes is the model's identity.

The bytes are safetensors without metadata. Every `state_dict` entry is there; the library orders entries by dtype and then by name, so the
same weights always give the same bytes. The vector holds the floating-point entries alone (parameters and buffers
such as running means), in ascending order of name, each flattened row by row; integer buffers keep the base model's value.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.torch
import torch

from cifer_tasks.errors import IntegrityError

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule

Vector = npt.NDArray[np.float32]


def to_bytes(module: LightningModule) -> bytes:
    """The module's `state_dict` as safetensors bytes, on the CPU; tied weights are written once per name."""
    entries = {name: value.detach().cpu().contiguous().clone() for name, value in module.state_dict().items()}
    return bytes(safetensors.torch.save(entries))


def load_into(module: LightningModule, model_bytes: bytes) -> None:
    """Set the module's weights. Raises `IntegrityError` when the bytes are not this model's."""
    entries = _entries(model_bytes)
    try:
        module.load_state_dict(entries, strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        msg = f"the weights do not fit {type(module).__name__}: {reason}; give the model.path and model.args that they were trained with"
        raise IntegrityError(msg) from None


def digest(model_bytes: bytes) -> str:
    """Hex SHA-256 of the safetensors bytes."""
    return hashlib.sha256(model_bytes).hexdigest()


def flatten(model_bytes: bytes) -> Vector:
    """The floating-point entries as one vector, float32 (d,)."""
    parts = [value.to(torch.float32).reshape(-1).numpy() for _, value in _floating(_entries(model_bytes))]
    return np.concatenate([np.empty(0, np.float32), *parts])


def unflatten(vector: npt.NDArray[np.floating], like: bytes) -> bytes:
    """The inverse of `flatten`: `vector` (d,) in the shapes and dtypes of `like`, whose other entries are kept.

    Raises `ValueError` when the length is not d.
    """
    entries = _entries(like)
    floating = _floating(entries)
    length = sum(value.numel() for _, value in floating)
    if vector.shape != (length,):
        msg = f"a vector of shape {vector.shape} does not fit a model of {length} parameters"
        raise ValueError(msg)
    offset = 0
    for name, value in floating:
        part = np.array(vector[offset : offset + value.numel()], dtype=np.float64)
        entries[name] = torch.from_numpy(part).to(value.dtype).reshape(value.shape)
        offset += value.numel()
    return bytes(safetensors.torch.save(entries))


def apply_update(model_bytes: bytes, mean_delta: npt.NDArray[np.floating]) -> bytes:
    """The model moved by `mean_delta` (d,): added in float64, then rounded to each entry's dtype."""
    return unflatten(flatten(model_bytes).astype(np.float64) + mean_delta.astype(np.float64), like=model_bytes)


def _entries(model_bytes: bytes) -> dict[str, torch.Tensor]:
    try:
        return dict(safetensors.torch.load(model_bytes))
    except (safetensors.SafetensorError, ValueError) as error:
        msg = f"{len(model_bytes)} bytes are not a safetensors model: {error}; restore the artifact or start the run again"
        raise IntegrityError(msg) from None


def _floating(entries: dict[str, torch.Tensor]) -> list[tuple[str, torch.Tensor]]:
    return [(name, entries[name]) for name in sorted(entries) if entries[name].is_floating_point()]
