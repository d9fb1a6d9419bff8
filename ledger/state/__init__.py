"""The deterministic state machine: `apply_block` is its one entrance, and each kind of rule is one module."""

from __future__ import annotations

from ledger.state.transition import apply_block, apply_transaction, decode_transaction
from ledger.state.view import RoundView, State, check_genesis, verify_entry, verify_no_entry

__all__ = [
    "RoundView",
    "State",
    "apply_block",
    "apply_transaction",
    "check_genesis",
    "decode_transaction",
    "verify_entry",
    "verify_no_entry",
]
