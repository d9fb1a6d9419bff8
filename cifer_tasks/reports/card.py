"""A model card (Mitchell et al. 2019, "Model Cards for Model Reporting") in Markdown and HTML, with figures, from the record alone.

The Markdown begins with the metadata block that model hubs read. The HTML is one file: no script, nothing loaded, light, dark, printable.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from io import StringIO

from cifer_tasks.reports.facts import Facts
from ledger.provenance import SiteHistory
from ledger.state.entries import Origin


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture. svg: a whole SVG element, drawn in the text's colour.  alt: what it shows, for those who do not see it."""

    name: str
    alt: str
    svg: str


def figures(facts: Facts) -> tuple[Figure, ...]:
    """Accuracy and loss over the rounds, and who took part with how many rows."""
    numbers = [found.round for found, _ in facts.outcomes]
    accepted = [outcome.accepted for _, outcome in facts.outcomes]
    drawn = []
    for metric in sorted(facts.metrics_of(numbers[0]) if numbers else {}):
        values = [facts.metrics_of(number).get(metric, float("nan")) for number in numbers]
        rejected = [number for number, taken in zip(numbers, accepted, strict=True) if not taken]
        also = f"; rejected: {', '.join(map(str, rejected))}" if rejected else ""
        alt = f"{metric} on the held-out table, from {values[0]:.4f} in round {numbers[0]} to {values[-1]:.4f} in round {numbers[-1]}{also}"
        drawn.append(Figure(metric, alt, _line(numbers, values, rejected, metric)))
    sites = facts.history.run.sites
    taking_part = [sum(site.site in found.sealed_sites for found, _ in facts.outcomes) for site in sites]
    alt = "training rows and rounds in the sum per site: " + ", ".join(
        f"{site.site} {site.rows} rows, {rounds} of {len(numbers)} rounds" for site, rounds in zip(sites, taking_part, strict=True)
    )
    labels = [f"{site.site} ({rounds}/{len(numbers)})" for site, rounds in zip(sites, taking_part, strict=True)]
    drawn.append(Figure("sites", alt, _bars(labels, [site.rows for site in sites])))
    return tuple(drawn)


def card_markdown(facts: Facts, pictures: Sequence[tuple[Figure, str]]) -> str:
    """The card as Markdown. pictures: each figure with the address it is shown from."""
    history, run = facts.history, facts.history.run
    metrics = facts.metrics_of(history.round)
    shown = "\n\n".join(f"![{figure.alt}]({address})" for figure, address in pictures)
    rounds = "\n".join(
        f"| {found.round} | {len(found.sealed_sites)} | {len(found.exclusions)} | {_plain(outcome.reason) or 'accepted'} "
        f"| {outcome.origin.height} | `{outcome.candidate.hex()[:16]}` |"
        for found, outcome in facts.outcomes
    )
    scores = "\n".join(f"| {name} | {value:.6f} |" for name, value in metrics.items())
    architecture = facts.settings.get("model", {}).get("path", "on record by digest only")
    training = facts.settings.get("training", {})
    return f"""---
model_name: {history.name}
version: {history.version}
library_name: pytorch
pipeline_tag: tabular-classification
tags: [federated-learning, {run.scheme}-encryption]
model-index:
  - name: {history.name}
    results:
      - task: {{type: classification}}
        dataset: {{name: held-out table, type: {run.purpose}}}
        metrics: {json.dumps([{"type": name, "value": round(value, 6)} for name, value in metrics.items()])}
---
# {history.name}, version {history.version}

## Model details

- SHA-256 of its safetensors bytes: `{history.model.hex()}`
- Aliases: {", ".join(history.aliases) or "none"}; {run.parameters:,} parameters; architecture: {architecture}
- Trained by {len(run.sites)} sites over {history.round} rounds of federated averaging, in run `{run.run}`
- Code: commit `{run.code_commit}`; packages: `{run.lock_digest.hex()}`; settings: `{run.config_digest.hex()}`
- Registered {_where(history.registered)}

## Intended use

The purpose that the sites consented to: **{run.purpose}**. Any other use has no consent on record.

## Training data

Each table stays at its site; the record holds its digest.

| site | table | rows | SHA-256 | consent for {run.purpose} |
|---|---|---|---|---|
{chr(10).join(_site_row(site) for site in run.sites)}

## Training procedure

{_procedure(training)}

| round | sites in the sum | left out | gate | block | candidate |
|---|---|---|---|---|---|
{rounds}

## Evaluation

On a table that no site trained on:

| metric | value |
|---|---|
{scores}

{shown}

## Privacy and security

Updates were encrypted under the scheme `{run.scheme}`. What it does not protect against: {facts.warning or "see the trust model"}.
{_clipping(facts)}No differential privacy was applied: the sum that was opened is exact.

## Caveats

That each site trained honestly on the table it registered cannot be seen in a record. The scores above are for one held-out table: another
population may fare worse. Nothing here says that the model is fit for decisions about a person.

## Provenance

- Network `{facts.network.hex()}`, as of block {facts.height}
- Run declared {_where(run.opened)}
- `cifer export {facts.reference} -o model.cifer` writes the evidence, and
  `cifer verify model.cifer --genesis genesis.json` checks it without this network
"""


def card_html(facts: Facts) -> str:
    """The card as one HTML page, with its figures inside."""
    from markdown_it import MarkdownIt

    drawn = figures(facts)
    text = card_markdown(facts, ()).split("---\n", 2)[2]
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    shown = "".join(f"<figure>{item.svg}<figcaption>{escape(item.alt)}</figcaption></figure>\n" for item in drawn)
    body = body.replace("<h2>Privacy and security</h2>", f"{shown}<h2>Privacy and security</h2>")
    body = body.replace("<table>", '<div class="wide" tabindex="0" role="region" aria-label="table"><table>').replace(
        "</table>", "</table></div>"
    )
    return _PAGE.format(title=escape(f"{facts.history.name}, version {facts.history.version}"), body=body)


def _site_row(site: SiteHistory) -> str:
    if site.consented is None:
        consent = "none"
    elif site.withdrawn is not None:
        consent = f"withdrawn at block {site.withdrawn.height}: {_plain(site.withdrawal_reason)}"
    else:
        consent = f"since block {site.consented.height}"
    return f"| {site.site} | {site.dataset_name} | {site.rows:,} | `{site.dataset.hex()[:16]}` | {consent} |"


def _procedure(training: dict[str, object]) -> str:
    if not training:
        return "The settings are on record by their digest only."
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in sorted(training.items())) + "."


def _clipping(facts: Facts) -> str:
    norm = facts.settings.get("privacy", {}).get("clip_norm")
    return f"Each site scaled its update to an L2 norm of at most {norm}. " if norm is not None else ""


def _where(origin: Origin) -> str:
    return f"in block {origin.height}, transaction `{origin.transaction.hex()}`"


def _plain(text: str) -> str:
    """A reason as it may stand in a table's cell: no markup."""
    return "".join(f"\\{letter}" if letter in r"\`*_{}[]()#+-.!|<>&~" else letter for letter in text)


def _line(numbers: Sequence[int], values: Sequence[float], rejected: Sequence[int], label: str) -> str:
    from matplotlib.figure import Figure as Canvas
    from matplotlib.ticker import MaxNLocator

    canvas = Canvas(figsize=(6, 2.6), layout="constrained")
    axes = canvas.subplots()
    axes.plot(numbers, values, marker="o", color="#2a7ab8")
    taken = [(number, value) for number, value in zip(numbers, values, strict=True) if number in rejected]
    if taken:
        axes.plot(*zip(*taken, strict=True), marker="x", markersize=10, linestyle="none", color="#c2410c", label="rejected by the gate")
        axes.legend()
    axes.set(xlabel="round", ylabel=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    return _svg(canvas, label)


def _bars(labels: Sequence[str], rows: Sequence[int]) -> str:
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(6, 0.6 + 0.32 * len(labels)), layout="constrained")
    axes = canvas.subplots()
    axes.barh(labels, rows, color="#2a7ab8")
    axes.invert_yaxis()
    axes.set(xlabel="training rows")
    axes.spines[["top", "right"]].set_visible(False)
    return _svg(canvas, "sites")


def _svg(canvas: object, salt: str) -> str:
    """The drawing as an SVG element whose black is the text's colour; the same drawing gives the same bytes."""
    from matplotlib import rc_context

    stream = StringIO()
    with rc_context({"svg.hashsalt": f"cifer-{salt}", "svg.fonttype": "none"}):
        canvas.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})  # type: ignore[attr-defined]
    drawn = stream.getvalue()
    drawn = (
        drawn[drawn.index("<svg") :].replace("#000000", "currentColor").replace("<svg ", '<svg aria-hidden="true" fill="currentColor" ', 1)
    )
    return drawn.strip()


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
body {{ max-width: 50rem; margin: 2rem auto; padding: 0 1rem; font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }}
table {{ border-collapse: collapse; overflow-wrap: normal; }}
th, td {{ text-align: left; padding: .25rem .75rem .25rem 0; border-bottom: 1px solid color-mix(in srgb, currentColor 25%, transparent); }}
.wide {{ overflow-x: auto; }}
code {{ font-size: .875em; }}
figure {{ margin: 1.5rem 0; }}
figure svg {{ width: 100%; max-width: 36rem; height: auto; font-family: inherit; }}
figcaption {{ font-size: .875rem; opacity: .8; }}
@media print {{ body {{ margin: 0; max-width: none; }} figure, tr {{ break-inside: avoid; }} }}
</style>
</head>
<body>
<main>
{body}</main>
</body>
</html>
"""
