// The drawing of the lineage graph: starts at one node and opens what is beside another when it is clicked.
"use strict";

const COLUMN = 250;
const ROW = 74;

const box = document.getElementById("graph");
const said = document.getElementById("said");
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

const styles = () => [
  { selector: "node", style: {
    "background-color": colour("--panel"), "border-width": 1.5, "border-color": colour("--soft"), shape: "round-rectangle",
    width: 200, height: 48, label: (node) => `${node.data("kind")}\n${node.data("label")}`, "text-wrap": "wrap", "text-max-width": 190,
    "text-valign": "center", "font-size": 12, "text-overflow-wrap": "anywhere", color: colour("--ink") } },
  { selector: "node[?opened]", style: { "border-color": colour("--accent"), "border-width": 2.5 } },
  { selector: "edge", style: {
    width: 1.5, "line-color": colour("--soft"), "target-arrow-color": colour("--soft"), "target-arrow-shape": "triangle",
    "curve-style": "bezier", label: (edge) => edge.data("kind").replaceAll("_", " "), "font-size": 10, color: colour("--soft"),
    "text-background-color": colour("--panel"), "text-background-opacity": 1, "text-background-padding": 2 } },
  { selector: "edge[basis = 'claim']", style: { "line-style": "dashed" } },
  { selector: "edge[basis = 'data']", style: { "line-color": colour("--accent"), "target-arrow-color": colour("--accent") } },
];

const cy = cytoscape({ container: box, style: styles(), layout: { name: "preset" }, minZoom: 0.05, maxZoom: 2, wheelSensitivity: 0.3 });
const taken = new Map(); // column -> rows in use

// The free row of a column that is nearest to `wanted`.
function row(column, wanted) {
  const used = taken.get(column) ?? taken.set(column, new Set()).get(column);
  for (let distance = 0; ; distance++) {
    for (const found of [wanted + distance, wanted - distance]) {
      if (!used.has(found)) {
        used.add(found);
        return found;
      }
    }
  }
}

function place(node, column, wanted) {
  const found = row(column, wanted);
  const label = node.label.length > 52 ? `${node.label.slice(0, 50)}…` : node.label;
  cy.add({ data: { id: node.id, kind: node.kind, label, column, row: found }, position: { x: column * COLUMN, y: found * ROW } });
}

async function open(id) {
  const offset = cy.getElementById(id).data("next") ?? 0;
  const answer = await fetch(`/graph/neighbours?node=${encodeURIComponent(id)}&offset=${offset}`, { headers: { Accept: "application/json" } });
  if (!answer.ok) {
    said.textContent = `That could not be opened (${answer.status}).`;
    return;
  }
  const found = await answer.json();
  const nodes = new Map(found.nodes.map((node) => [node.id, node]));
  if (cy.getElementById(id).empty()) place(found.node, 0, 0);
  const own = cy.getElementById(id);
  const before = cy.nodes().length;
  for (const link of found.links) {
    const made_from = link.source === id;
    const other = made_from ? link.target : link.source;
    if (cy.getElementById(other).empty() && nodes.has(other)) place(nodes.get(other), own.data("column") + (made_from ? -1 : 1), own.data("row"));
    const edge = `${link.source} ${link.kind} ${link.target}`;
    if (cy.getElementById(edge).empty() && cy.getElementById(other).nonempty()) {
      cy.add({ data: { id: edge, source: link.source, target: link.target, kind: link.kind, basis: link.basis } });
    }
  }
  own.data("opened", true);
  own.data("next", found.more ? offset + found.page : 0);
  const added = cy.nodes().length - before;
  said.textContent = `${own.data("kind")} ${own.data("label")}: ${added} more nodes${found.more ? ", click again for the next" : ""}; ${cy.nodes().length} drawn.`;
  cy.animate({ fit: { eles: own.closedNeighborhood(), padding: 30 }, duration: matchMedia("(prefers-reduced-motion: reduce)").matches ? 0 : 200 });
}

cy.on("tap", "node", (event) => open(event.target.id()));
const fit = document.getElementById("fit");
fit.hidden = false;
fit.addEventListener("click", () => cy.fit(undefined, 30));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => cy.style(styles()));
window.walk = cy;
open(box.dataset.node);
