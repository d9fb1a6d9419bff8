"""`python -m flows.cli` is `cifer`."""

from __future__ import annotations

from flows.cli import main

main()
