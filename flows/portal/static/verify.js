// The part of the verify page that runs here: takes a genesis and a bundle, has `verifier/` check them, and says what was and was not decided.

import { canVerify, readGenesis, Refused, verifyBundle } from "./verifier/verifier.js";

const PIN = "cifer-genesis";
const form = document.getElementById("here");
const field = (name) => form.elements.namedItem(name);
const part = (name) => document.getElementById(name);
const { about, bundle: bundleUrl, genesis: genesisUrl } = form.dataset;

function line(what, said, found, standing) {
  const item = document.createElement("li");
  item.className = standing;
  const [title, badge, text] = ["strong", "span", "p"].map((tag) => document.createElement(tag));
  title.textContent = what;
  badge.className = "status";
  badge.textContent = said;
  text.textContent = found;
  item.append(title, " ", badge, text);
  part("found").append(item);
}

function verdict(text, standing) {
  part("verdict").textContent = text;
  part("verdict").className = `verdict ${standing}`;
}

function remembered(key) {
  try {
    return JSON.parse(localStorage.getItem(key));
  } catch {
    return null;
  }
}

const day = () => new Date().toISOString().slice(0, 10);
const pinned = () => remembered(PIN);

function showPin() {
  const pin = pinned();
  part("pin").hidden = !pin;
  if (pin) part("pinned").textContent = `Kept in this browser since ${pin.since}: network ${pin.network}.`;
  for (const choice of form.querySelectorAll("[name=whose]")) choice.checked = choice.value === (pin ? "pinned" : "own");
}

async function fetched(url) {
  const answer = await fetch(url, { headers: { Accept: "application/json" } });
  if (!answer.ok) throw new Error(`this server does not give it (${answer.status}): ${(await answer.json()).message}`);
  return new Uint8Array(await answer.arrayBuffer());
}

// The genesis, and whose word it is.
async function chosenGenesis() {
  const whose = field("whose").value;
  if (whose === "pinned") return { json: pinned().json, whose, from: `kept in this browser since ${pinned().since}` };
  if (whose === "server") return { json: new TextDecoder().decode(await fetched(genesisUrl)), whose, from: "this server's own" };
  const file = field("genesis-file").files[0];
  const json = file ? await file.text() : field("genesis-text").value;
  if (!json.trim()) throw new Error("give a genesis: choose its file, or paste it");
  return { json, whose, from: file ? `yours, out of ${file.name}` : "yours, as pasted" };
}

async function chosenBundle() {
  const file = field("bundle-file").files[0];
  if (file) return { bytes: new Uint8Array(await file.arrayBuffer()), from: file.name };
  if (!bundleUrl) throw new Error("choose a bundle: a file that `cifer export` wrote");
  return { bytes: await fetched(bundleUrl), from: "this server" };
}

// Whether this browser has seen a later block of the network, or another block of this height; remembers the latest.
function compareHead(shown) {
  const key = `cifer-head-${shown.network}`;
  const seen = remembered(key);
  const what = "Compared with what this browser has seen before";
  if (seen && seen.height === shown.height && seen.block !== shown.block) {
    throw new Refused("C10", `on ${seen.at} block ${seen.height} of this network was ${seen.block}: two histories are certified`);
  }
  if (seen && seen.height > shown.height) {
    line(what, "not decided here", `on ${seen.at} block ${seen.height} was shown; this bundle ends before it, and may hide what came since`, "open");
    return;
  }
  if (seen) line(what, "holds", `block ${seen.height} of ${seen.at} was the latest; this bundle goes as far or further`, "held");
  localStorage.setItem(key, JSON.stringify({ height: shown.height, block: shown.block, at: day() }));
}

async function verify() {
  const genesis = await chosenGenesis();
  const known = await readGenesis(genesis.json);
  const own = genesis.whose !== "server";
  line("Which network this is", own ? "your word" : "this server's word", `${known.network}, with ${known.validators.length} validators; the genesis is ${genesis.from}`, "open");
  const bundle = await chosenBundle();
  const shown = await verifyBundle(bundle.bytes, genesis.json, bundle.from === "this server" ? about : "", (rules, what, found) => {
    line(what, "holds", `${found} (${rules})`, "held");
  });
  if (own) compareHead(shown);
  if (genesis.whose === "own" && field("keep").checked) {
    localStorage.setItem(PIN, JSON.stringify({ json: genesis.json, network: known.network, since: day() }));
    showPin();
  }
  part("shown").textContent = `${shown.name} version ${shown.version}, SHA-256 ${shown.model}, made by run ${shown.run}, as of block ${shown.height} (${shown.block}); the bundle is from ${bundle.from}.`;
  part("unchecked").replaceChildren(...shown.unchecked.map((text) => Object.assign(document.createElement("li"), { textContent: text })));
  part("rest").hidden = false;
  if (own) verdict("Verified in this browser: everything that was checked holds.", "held");
  else verdict("This server agrees with itself. Whether this is the network you know, only a genesis from somebody else decides.", "open");
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  part("found").replaceChildren();
  part("rest").hidden = true;
  part("result").hidden = false;
  part("result").setAttribute("aria-busy", "true");
  verdict("Verifying…", "");
  try {
    if (!(await canVerify())) {
      verdict("Nothing was verified here: this browser's WebCrypto has no Ed25519. Chromium 137, Firefox 129 and Safari 17 have it. What this server says below is its word.", "open");
    } else await verify();
  } catch (error) {
    const refused = error instanceof Refused;
    if (refused) line(`Rule ${error.rule}`, "does not hold", error.message, "broken");
    verdict(refused ? "Refused: something does not hold." : `Nothing was verified: ${error.message}`, "broken");
  }
  part("result").setAttribute("aria-busy", "false");
});

part("forget").addEventListener("click", () => {
  localStorage.removeItem(PIN);
  showPin();
});
for (const name of ["genesis-file", "genesis-text"]) {
  field(name).addEventListener("input", () => { form.querySelector("[name=whose][value=own]").checked = true; });
}
showPin();
form.hidden = false;
