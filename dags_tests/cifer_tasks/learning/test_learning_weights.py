"""Weights as bytes and as a vector."""

from __future__ import annotations

import random

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import LightningModule
from torch import nn

from cifer_tasks.errors import IntegrityError
from cifer_tasks.learning.weights import apply_update, digest, flatten, load_into, to_bytes, unflatten

DTYPES = st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64])
SHAPES = st.lists(st.integers(0, 4), max_size=3)
STATES = st.dictionaries(st.text("abc.", min_size=1, max_size=4), st.tuples(DTYPES, SHAPES), min_size=1, max_size=6)


def state_bytes(state: dict[str, tuple[torch.dtype, list[int]]], order: list[str], seed: int = 0) -> bytes:
    """Safetensors of random entries, inserted in `order`; an entry's values depend on its name alone."""
    entries = {}
    for name in order:
        dtype, shape = state[name]
        generator = torch.Generator().manual_seed(seed + sum(map(ord, name)))
        entries[name] = (torch.randn(shape, generator=generator) * 8).to(dtype)
    return safetensors.torch.save(entries)


@given(STATES, st.randoms())
@settings(max_examples=80, deadline=None)
def test_bytes_depend_on_the_weights_alone(state: dict[str, tuple[torch.dtype, list[int]]], shuffler: random.Random) -> None:
    """Any insertion order gives the same digest, and unflatten(flatten(x)) is x, bit for bit."""
    order = list(state)
    shuffler.shuffle(order)
    one, other = state_bytes(state, sorted(state)), state_bytes(state, order)
    assert digest(one) == digest(other)
    assert unflatten(flatten(one), like=other) == one


@given(STATES)
@settings(max_examples=80, deadline=None)
def test_the_vector_is_the_floating_entries_in_order_of_name(state: dict[str, tuple[torch.dtype, list[int]]]) -> None:
    """Oracle: a plain loop; integer entries are not in it and keep their value."""
    model = state_bytes(state, list(state))
    entries = safetensors.torch.load(model)
    expected: list[float] = []
    for name in sorted(entries):
        if entries[name].is_floating_point():
            expected += [float(value) for value in entries[name].flatten()]
    vector = flatten(model)
    assert vector.dtype == np.float32
    assert vector.tolist() == np.array(expected, np.float32).tolist()
    moved = safetensors.torch.load(unflatten(vector + 1, like=model))
    for name, value in entries.items():
        if not value.is_floating_point():
            assert torch.equal(moved[name], value)
        assert moved[name].dtype == value.dtype


def test_an_update_is_added_in_float64() -> None:
    """2^24 + 1 - 2^24 survives in the mean; float32 addition of a float64 mean would lose half a unit."""
    model = safetensors.torch.save({"w": torch.tensor([1.0, 2.0**24])})
    moved = flatten(apply_update(model, np.array([2.0**-24 * 3, 1.999999999])))
    assert moved.tolist() == [float(np.float32(1 + 2.0**-24 * 3)), float(np.float32(2.0**24 + 1.999999999))]


@pytest.mark.parametrize("length", [0, 2, 4])
def test_a_vector_of_another_length_is_refused(length: int) -> None:
    """The message names both lengths."""
    model = safetensors.torch.save({"w": torch.zeros(3)})
    with pytest.raises(ValueError, match=rf"\({length},\) does not fit a model of 3 parameters"):
        unflatten(np.zeros(length, np.float32), like=model)


@pytest.mark.parametrize("cut", [0, 7, 20, -1])
def test_truncated_bytes_are_an_integrity_error(cut: int) -> None:
    """Whatever is cut off, the error is ours and one line."""
    model = safetensors.torch.save({"w": torch.zeros(30)})
    with pytest.raises(IntegrityError, match="not a safetensors model") as caught:
        flatten(model[:cut])
    assert "\n" not in str(caught.value)


class Tied(LightningModule):
    """Two names for one weight, and an integer buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
        self.two.weight = self.one.weight
        self.norm = nn.BatchNorm1d(2)


def test_tied_weights_and_integer_buffers_survive() -> None:
    """A module with shared weights and a step counter goes through bytes unchanged."""
    module, other = Tied(), Tied()
    module.norm.num_batches_tracked += 3
    load_into(other, to_bytes(module))
    assert digest(to_bytes(other)) == digest(to_bytes(module))
    assert other.two.weight is other.one.weight
    assert int(other.norm.num_batches_tracked) == 3


def test_weights_of_another_model_are_refused_in_one_line() -> None:
    """Loading names the class and what to do."""
    with pytest.raises(IntegrityError, match=r"do not fit Tied: .* model\.path") as caught:
        load_into(Tied(), safetensors.torch.save({"w": torch.zeros(3)}))
    assert "\n" not in str(caught.value)
