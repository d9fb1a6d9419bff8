"""How sensitive each parameter is at one site: what selective encryption hides first."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from cifer_tasks.config import Settings
from cifer_tasks.data.tables import Table
from cifer_tasks.learning._determinism import derive_seed, deterministic
from cifer_tasks.learning.building import restore
from cifer_tasks.learning.training import filled
from cifer_tasks.privacy.inversion import sensitivity

MOST_ROWS: Final = 32
"""Rows that a site looks at, drawn at random: each takes a gradient for every class."""


def site_sensitivity(settings: Settings, model_bytes: bytes, table: Table, site: str) -> npt.NDArray[np.float32]:
    """The sensitivity of each entry of `flatten` at this site, float32 (d,), of L2 norm `privacy.clip_norm`: encoded as updates are.

    FedML-HE's measure (Jin et al. 2023, section 2.4). Entries without a gradient, such as running means, say most about rows and are given
    the largest value. It must not leave the site unprotected.
    """
    rows = np.random.default_rng(derive_seed("sensitivity", settings.seed, site)).permutation(table.rows)[:MOST_ROWS]
    with deterministic(0):
        module = restore(settings, int(table.features.shape[1]), table.classes, model_bytes).eval()
        found = sensitivity(module, torch.from_numpy(filled(settings, table)[rows]))
    largest, place, parts = float(found.max()), 0, []
    parameters = {name for name, _ in module.named_parameters()}
    for name, value in sorted(module.state_dict().items()):
        if name in parameters:
            parts.append(found[place : place + value.numel()])
            place += value.numel()
        elif value.is_floating_point():
            parts.append(np.full(value.numel(), largest))
    whole = np.concatenate(parts)
    length = float(np.linalg.norm(whole))
    return (whole * (settings.privacy.clip_norm / length if length else 0.0)).astype(np.float32)
