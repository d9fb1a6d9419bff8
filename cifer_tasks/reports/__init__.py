"""A model's history in the formats that auditors already use: pure functions from `Facts` to documents.

- `prov`: W3C PROV-JSON, who derived what from what on whose behalf.
- `cyclonedx`: a CycloneDX ML-BOM, what the model is made of.
- `intoto`: an in-toto statement with SLSA provenance in a signed DSSE envelope: the model's signature.
- `card`: a model card in Markdown and HTML, with figures.

None of them holds a time: the ledger has no clock, and the same history gives the same bytes.
"""

from __future__ import annotations

from cifer_tasks.reports.card import Figure, card_html, card_markdown, figures
from cifer_tasks.reports.cyclonedx import ml_bom
from cifer_tasks.reports.facts import Facts
from cifer_tasks.reports.intoto import PAYLOAD_TYPE, seal_statement, slsa_statement, statement_in
from cifer_tasks.reports.prov import prov_document

__all__ = [
    "PAYLOAD_TYPE",
    "Facts",
    "Figure",
    "card_html",
    "card_markdown",
    "figures",
    "ml_bom",
    "prov_document",
    "seal_statement",
    "slsa_statement",
    "statement_in",
]
