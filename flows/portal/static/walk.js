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

const cy = cytoscape({ container: box, style: styles(), layout: { name: "preset" }, minZoom: 0.05, maxZoom: 1.5 });
const still = matchMedia("(prefers-reduced-motion: reduce)");

// Columns: what something was made from is to its left. Along data edges from the first node as far as they lead, then over one other
// edge, and so on; last, whatever data edge does not point left pushes its target there (the drawn graph has no cycles of data edges).
function columns() {
  const found = new Map([[box.dataset.node, 0]]);
  const data = cy.edges("[basis = 'data']");
  const first = [box.dataset.node];
  const later = [];
  while (first.length || later.length) {
    const only = first.length > 0;
    const id = only ? first.shift() : later.shift();
    if (only) later.push(id);
    for (const edge of cy.getElementById(id).connectedEdges(only ? "[basis = 'data']" : "*")) {
      const [source, target] = [edge.source().id(), edge.target().id()];
      const other = source === id ? target : source;
      if (!found.has(other)) {
        found.set(other, found.get(id) + (source === id ? -1 : 1));
        first.push(other);
      }
    }
  }
  for (let pass = 0, moved = true; moved && pass < cy.nodes().length; pass++) {
    moved = false;
    for (const edge of data) {
      const most = found.get(edge.source().id()) - 1;
      if (found.get(edge.target().id()) > most) {
        found.set(edge.target().id(), most);
        moved = true;
      }
    }
  }
  return found;
}

// Rows: each column in the middle, its nodes near the nodes that they are tied to.
function arrange(shown) {
  const column = columns();
  const byColumn = Map.groupBy(cy.nodes().map((node) => node.id()), (id) => column.get(id));
  const y = new Map(cy.nodes().map((node) => [node.id(), 0]));
  for (let pass = 0; pass < 4; pass++) {
    for (const ids of byColumn.values()) {
      const wish = new Map(ids.map((id) => {
        const beside = cy.getElementById(id).neighborhood("node").map((node) => y.get(node.id()));
        return [id, beside.reduce((sum, value) => sum + value, 0) / (beside.length || 1)];
      }));
      ids.sort((one, other) => wish.get(one) - wish.get(other));
      ids.forEach((id, index) => y.set(id, (index - (ids.length - 1) / 2) * ROW));
    }
  }
  const positions = (node) => ({ x: column.get(node.id()) * COLUMN, y: y.get(node.id()) });
  const duration = still.matches ? 0 : 250;
  const done = () => box.setAttribute("aria-busy", "false");
  const look = () => cy.animate({ fit: { eles: shown, padding: 30 }, duration, complete: done });
  cy.layout({ name: "preset", positions, fit: false, animate: duration > 0, animationDuration: duration, stop: look }).run();
}

function add(node) {
  const label = node.label.length > 52 ? `${node.label.slice(0, 50)}…` : node.label;
  cy.add({ data: { id: node.id, kind: node.kind, label } });
}

async function open(id) {
  box.setAttribute("aria-busy", "true");
  const offset = cy.getElementById(id).data("next") ?? 0;
  const answer = await fetch(`/graph/neighbours?node=${encodeURIComponent(id)}&offset=${offset}`, { headers: { Accept: "application/json" } });
  if (!answer.ok) {
    said.textContent = `That could not be opened (${answer.status}).`;
    box.setAttribute("aria-busy", "false");
    return;
  }
  const found = await answer.json();
  const before = cy.nodes().length;
  for (const node of [found.node, ...found.nodes]) {
    if (cy.getElementById(node.id).empty()) add(node);
  }
  for (const link of found.links) {
    const edge = `${link.source} ${link.kind} ${link.target}`;
    if (cy.getElementById(edge).empty()) cy.add({ data: { id: edge, ...link } });
  }
  const own = cy.getElementById(id);
  own.data("opened", true);
  own.data("next", found.more ? offset + found.page : 0);
  const added = cy.nodes().length - before;
  said.textContent = `${own.data("kind")} ${own.data("label")}: ${added} more nodes${found.more ? ", click again for the next" : ""}; ${cy.nodes().length} drawn.`;
  arrange(own.closedNeighborhood());
}

cy.on("tap", "node", (event) => open(event.target.id()));
const fit = document.getElementById("fit");
fit.hidden = false;
fit.addEventListener("click", () => cy.fit(undefined, 30));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => cy.style(styles()));
window.walk = cy;
open(box.dataset.node);
