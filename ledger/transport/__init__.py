"""How validators and clients talk: `wire` (messages in bounded frames), `tls` (who may connect), `limits` (how much, how often)."""

from __future__ import annotations
