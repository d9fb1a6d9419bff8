// Which entries a model's history consists of, and that each was said by its author in the transactions it names (Z8 to Z11 of ledger/SPEC.md).

import { same } from "./records.js";
import { need } from "./chain.js";

// The sites that have a place in a run: in any round, or in this one.
export const places = (run) => [...run.datasets, ...run.joined];
export const placesIn = (run, number) => [...run.datasets, ...run.joined.filter((one) => one.since <= number)];

const SIMPLE = {
  "state.encryption-key": ["key.register", (entry) => entry.site],
  "state.dataset": ["dataset.register", (entry) => entry.owner],
  "state.exclusion": ["round.exclude", (entry) => entry.by],
  "state.statistics": ["round.measure", (entry) => entry.site],
  "state.weighing": ["round.weigh", (_, story) => story.run.coordinator],
  "state.partition": ["round.partition", (_, story) => story.run.coordinator],
  "state.release": ["round.release", (entry) => entry.site],
  "state.submission": ["round.submit", (entry) => entry.site],
  "state.model": ["model.register", (_, story) => story.name.owner],
  "state.alias": ["model.register", (_, story) => story.name.owner],
  "state.lineage": ["lineage.append", (entry) => entry.author],
  "state.approval-required": ["approval.require", (entry) => entry.by],
  "state.approval": ["model.approve", (entry) => entry.by],
  "state.run": ["run.open", (entry) => entry.coordinator],
};
const CONSENTS = new Set(["consent.grant", "consent.withdraw"]);

// Z8 to Z11. Returns the story: its run, model, entries by what they are, and transactions. Raises Refused.
export async function readHistory(bundle, state, said, genesis, sets) {
  const story = await askAll(bundle, state, said);
  const claims = (await Promise.all([...state.history.values()].map((entry) => claimsOf(entry, story)))).flat();
  for (const claim of claims) await checkClaim(claim, story, genesis);
  await checkNothingElse(bundle, story, new Set(claims.map((claim) => claim.origin.transaction)), sets);
  return story;
}

async function askAll(bundle, state, said) {
  await state.must("state.network");
  await state.must("state.validators");
  const name = await state.must("state.model-name", bundle.name);
  const model = await state.must("state.model", bundle.name, bundle.version);
  const run = await state.must("state.run", model.run);
  await state.ask("state.identity", run.coordinator);
  const required = await state.ask("state.approval-required", run.run);
  const approval = required && (await state.ask("state.approval", run.run, model.model));
  for (const use of places(run)) {
    await state.ask("state.identity", use.site);
    await state.ask("state.encryption-key", use.site);
    await state.ask("state.dataset", use.dataset);
    await state.ask("state.consent", use.dataset, run.purpose);
  }
  for (let number = 0; number <= model.round; number++) {
    for (const kind of number ? ["round", "weighing", "partition"] : []) await state.ask(`state.${kind}`, run.run, number);
    for (const use of number ? placesIn(run, number) : []) {
      for (const kind of ["submission", "exclusion", "statistics", "release"]) await state.ask(`state.${kind}`, run.run, number, use.site);
    }
    const count = await state.ask("state.lineage-count", run.run, number);
    for (let batch = 0; batch < (count?.batches ?? 0); batch++) await state.ask("state.lineage", run.run, number, batch);
  }
  for (const item of said.values()) {
    const { tag, public_key: key } = item.body;
    const account = await askKey(state, item.author, tag === "identity.accept");
    if (account && tag === "identity.accept") await state.ask("state.invitation", account.name);
    if (tag === "identity.rotate" || tag === "identity.revoke") await askKey(state, key);
  }
  const made = said.get(model.origin.transaction)?.body;
  if (made?.tag === "model.register" && made.alias) await state.ask("state.alias", bundle.name, made.alias);
  return { state, said, name, model, run, required, approval };
}

// Z8, of an author or a key that is named: whose it is, and if that one has another now, until when. An invitation's is nobody's own.
async function askKey(state, key, invitation = false) {
  const account = await state.ask("state.account", key);
  const identity = account && (await state.ask("state.identity", account.name));
  if (identity && identity.public_key !== key && !invitation) await state.ask("state.former-key", key);
  return account;
}

// Z11: what gave an identity the key that it has here.
async function keyGiven(identity, since, { said, state }) {
  const claim = (origin, kinds, author) => ({ entry: identity, origin, kinds, author, fields: {} });
  const kind = said.get(since.transaction)?.body.tag;
  if (kind === "identity.rotate") return [claim(since, [kind], identity.name)];
  if (kind !== "identity.accept") return [claim(since, ["identity.register", "validator.change"], null)];
  const invitation = await state.must("state.invitation", identity.name);
  return [claim(since, [kind], identity.name), claim(invitation.origin, ["identity.invite"], null)];
}

// Z11: that a key was revoked, by its holder or an administrator.
async function revoked(entry, origin, name, { said, state }) {
  const item = said.get(origin.transaction);
  const account = item && (await state.ask("state.account", item.author));
  return { entry, origin, kinds: ["identity.revoke"], author: account?.name === name ? name : null, fields: {} };
}

// Z11's table: {entry, origin, kinds, author (null: any administrator), fields of other names}.
async function claimsOf(entry, story) {
  const { tag, origin } = entry;
  const claim = (from, kinds, author, fields = {}) => ({ entry, origin: from, kinds, author, fields });
  const { coordinator } = story.run;
  const found = [];
  if (tag in SIMPLE) found.push(claim(origin, [SIMPLE[tag][0]], SIMPLE[tag][1](entry, story)));
  if (tag === "state.identity" && origin.height) {
    if (entry.public_key) found.push(...(await keyGiven(entry, origin, story)));
    else found.push(await revoked({ tag, name: entry.name }, origin, entry.name, story));
  }
  if (tag === "state.former-key") {
    const identity = await story.state.must("state.identity", entry.name);
    found.push(...(await keyGiven({ ...identity, public_key: entry.public_key }, entry.since, story)));
    const rotated = story.said.get(entry.until.transaction)?.body.tag === "identity.rotate";
    if (rotated) found.push({ entry: { tag }, origin: entry.until, kinds: ["identity.rotate"], author: entry.name, fields: {} });
    else found.push(await revoked(entry, entry.until, entry.name, story));
  }
  if (tag === "state.submission") found.push(claim(entry.consent, ["consent.grant"], entry.site, { purpose: story.run.purpose }));
  if (tag === "state.consent") {
    const owner = (await story.state.must("state.dataset", entry.dataset)).owner;
    found.push(claim(entry.granted, ["consent.grant"], owner));
    if (entry.withdrawn) found.push(claim(entry.withdrawn, ["consent.withdraw"], owner));
  }
  if (tag === "state.run" && entry.closed) found.push(claim(entry.closed, ["run.close"], coordinator, { outcome: entry.status }));
  for (const one of tag === "state.run" ? entry.joined : []) {
    found.push({ entry: { tag, run: entry.run, ...one }, origin: one.origin, kinds: ["run.admit"], author: coordinator, fields: {} });
  }
  if (tag === "state.round") {
    found.push(claim(entry.opened, ["round.open"], coordinator));
    if (entry.sealed) found.push(claim(entry.sealed, ["round.seal"], coordinator, { sites: entry.sealed_sites }));
    if (entry.outcome) found.push(claim(entry.outcome.origin, ["round.commit"], coordinator, entry.outcome));
  }
  return found;
}

// Z10, Z11.
async function checkClaim({ entry, origin, kinds, author, fields }, story, genesis) {
  const [what, where] = [entry.tag.slice("state.".length), `transaction ${origin.transaction.slice(0, 16)} of block ${origin.height}`];
  const item = story.said.get(origin.transaction);
  need("Z10", item?.place[0] === origin.height, `${where}, which an entry of kind ${what} names, is not shown`);
  const { body } = item;
  need("Z11", kinds.includes(body.tag), `${what}: ${where} is a ${body.tag}, which makes no such entry`);
  for (const [field, value] of Object.entries({ ...entry, ...fields })) {
    if (!["tag", "origin", "raw"].includes(field) && field in body) need("Z11", same(body[field], value), `${what}: its ${field} is not that of ${where}`);
  }
  const account = await story.state.ask("state.account", item.author);
  const identity = account && (await story.state.ask("state.identity", account.name));
  need("Z11", identity, `${what}: ${where} is signed by somebody whom the state does not know`);
  const administrator = identity.role === "administrator" && genesis.administrators.includes(item.author);
  need("Z11", author === null ? administrator : identity.name === author, `${what}: ${where} is signed by ${identity.name}, who may not say so`);
  const another = entry.tag === "state.identity" && body.tag === "identity.register" && body.role === "administrator";
  need("Z11", !another, `${what}: administrators come from the genesis alone`);
}

// Z9.
async function checkNothingElse(bundle, story, named, sets) {
  need("Z9", !story.state.unasked(), "it shows an entry that is no part of the model's history");
  const sites = new Set(places(story.run).map((use) => use.site));
  const tables = new Set(places(story.run).map((use) => use.dataset));
  for (const [identity, { body, author }] of story.said) {
    if (named.has(identity)) continue;
    const ours = CONSENTS.has(body.tag) && tables.has(body.dataset) && body.purpose === story.run.purpose;
    const account = ours || body.tag === "key.register" ? await story.state.ask("state.account", author) : null;
    need("Z9", account && sites.has(account.name), `it shows transaction ${identity.slice(0, 16)}, which no entry names`);
  }
  const below = new Set(sets.slice(1).map((one) => one.height - 1));
  for (const { header, transactions } of bundle.blocks.slice(0, -1)) {
    need("Z9", transactions.length || below.has(header.height), `it shows block ${header.height} and none of its transactions`);
  }
}
