// Whether the parts of a model's history fit together (Z12 to Z17 of ledger/SPEC.md).

import { unhex } from "./encoding.js";
import { sha256 } from "./digests.js";
import { ascending, need } from "./chain.js";

const MOST_PLAIN_BYTES = 8 * 1024 * 1024;

const earlier = (one, other) => one[0] < other[0] || (one[0] === other[0] && one[1] < other[1]);
const inOrder = (...places) => places.every((place, index) => index === 0 || earlier(places[index - 1], place));
const placeOf = (story, origin) => (origin.height ? story.said.get(origin.transaction).place : [0, 0]);

// Z12, and Z13's first sentence: each author's numbers ascend, and nobody speaks before being registered.
export async function checkSequences({ said, state }) {
  const last = new Map();
  for (const item of [...said.values()].sort((one, other) => (earlier(one.place, other.place) ? -1 : 1))) {
    const account = await state.must("state.account", item.author);
    const identity = await state.must("state.identity", account.name);
    const fits = item.sequence > (last.get(item.author) ?? -1) && item.sequence < account.next_sequence;
    need("Z12", fits, `a transaction of ${account.name} has number ${item.sequence}, which does not fit the others`);
    const registered = placeOf({ said }, identity.origin);
    const own = identity.public_key === item.author && identity.origin.height;
    need("Z13", !own || earlier(registered, item.place), `${account.name} speaks before being registered`);
    last.set(item.author, item.sequence);
  }
}

// Z13, Z14: everything in its order, every round from the model before it, and the model from the last.
export async function checkRounds(story) {
  const { state, run, model, name, required, approval } = story;
  let before = placeOf(story, run.origin);
  let current = run.initial_model;
  let outcome = null;
  for (const use of run.datasets) {
    const table = await state.must("state.dataset", use.dataset);
    const own = table.owner === use.site && earlier(placeOf(story, table.origin), before);
    need("Z14", own, `the table of ${use.site} is not its own, or was registered after the run was declared`);
  }
  for (let number = 1; number <= model.round; number++) {
    const round = await state.must("state.round", run.run, number);
    need("Z14", round.base_model === current, `round ${number} does not start from the model before it`);
    need("Z14", round.sealed && round.outcome, `round ${number} is not committed`);
    await checkRound(story, round, before);
    ({ outcome } = round);
    before = placeOf(story, outcome.origin);
    if (outcome.accepted) current = outcome.candidate;
  }
  need("Z14", outcome?.accepted && outcome.candidate === model.model, "the model is not the accepted candidate of its round");
  const registered = placeOf(story, model.origin);
  need("Z13", earlier(before, registered), "the model was registered before its round was committed");
  need("Z14", name.latest_version >= model.version, "the latest version of the model is below this one");
  if (required && earlier(placeOf(story, required.origin), registered)) {
    const decided = approval?.approved && earlier(placeOf(story, approval.origin), registered);
    need("Z14", decided, "the run required approval, and the model was registered without");
    const decider = await state.must("state.identity", approval.by);
    need("Z14", ["approver", "administrator"].includes(decider.role), `the model was approved by ${approval.by}, who may not decide about models`);
  }
}

async function checkRound(story, round, before) {
  const { state, run } = story;
  const number = round.round;
  const [opened, sealed, done] = [round.opened, round.sealed, round.outcome.origin].map((origin) => placeOf(story, origin));
  need("Z13", inOrder(before, opened, sealed, done), `round ${number} is not opened, sealed and committed in this order`);
  const decided = (await state.ask("state.weighing", run.run, number)) ?? (await state.ask("state.partition", run.run, number));
  const first = decided ? placeOf(story, decided.origin) : sealed;
  need("Z13", !decided || inOrder(sealed, first, done), `round ${number}: the weights or the partition are not between seal and outcome`);
  const submitted = new Set();
  for (const use of run.datasets) {
    const table = await state.must("state.dataset", use.dataset);
    const asked = ["submission", "exclusion", "statistics", "release"].map((kind) => state.ask(`state.${kind}`, run.run, number, use.site));
    const [sent, out, measured, released] = await Promise.all(asked);
    for (const [found, start, end] of [[sent, opened, sealed], [out, opened, sealed], [measured, sealed, done], [released, first, done]]) {
      const fits = !found || inOrder(start, placeOf(story, found.origin), end);
      need("Z13", fits, `round ${number}: something that ${use.site} did is not in its place between the steps around it`);
    }
    if (sent) {
      submitted.add(use.site);
      const fits = !out && sent.dataset === use.dataset && sent.rows === table.rows;
      need("Z14", fits, `round ${number}: ${use.site} submitted for another table or number of rows, or although it was left out`);
    }
  }
  const sites = round.sealed_sites;
  const whole = ascending(sites) && sites.every((site) => submitted.has(site)) && sites.length >= run.minimum_sites;
  need("Z14", whole, `round ${number}: the sealed set is unordered, too small, or names a site that did not submit`);
}

// Z15: every consent stood when the run was declared, at each submission and at each seal.
export async function checkConsents(story) {
  const { state, run, model } = story;
  for (const use of run.datasets) {
    const where = `the consent of ${use.site} for ${run.purpose}`;
    const changes = [...story.said.values()]
      .filter(({ body }) => ["consent.grant", "consent.withdraw"].includes(body.tag) && body.dataset === use.dataset && body.purpose === run.purpose)
      .sort((one, other) => (earlier(one.place, other.place) ? -1 : 1))
      .map((item) => ({ place: item.place, identity: item.identity, granted: item.body.tag === "consent.grant" }));
    const standing = (at) => {
      const last = changes.filter((change) => earlier(change.place, at)).at(-1);
      return last?.granted ? last.identity : null;
    };
    const entry = await state.must("state.consent", use.dataset, run.purpose);
    const alternate = changes.length && changes.every((change, index) => change.granted === (index % 2 === 0));
    const ends = changes.at(-1)?.identity === (entry.withdrawn ?? entry.granted).transaction;
    const grants = changes.filter((change) => change.granted);
    need("Z15", alternate && ends && grants.at(-1).identity === entry.granted.transaction, `${where}: grants and withdrawals do not alternate up to the last`);
    need("Z15", standing(placeOf(story, run.origin)), `${where} did not stand when the run was declared`);
    for (let number = 1; number <= model.round; number++) {
      const round = await state.must("state.round", run.run, number);
      const sent = await state.ask("state.submission", run.run, number, use.site);
      const rests = !sent || standing(placeOf(story, sent.origin)) === sent.consent.transaction;
      need("Z15", rests, `${where}: the submission to round ${number} rests on another one than stood then`);
      const stood = !round.sealed_sites.includes(use.site) || standing(placeOf(story, round.sealed));
      need("Z15", stood, `${where} did not stand when round ${number} was sealed`);
    }
  }
}

// Z16: each artifact is named by an entry, and its bytes have its digest.
export async function checkArtifacts({ state, run, model }, artifacts) {
  const sizes = new Map(state.entries("state.submission").map((entry) => [entry.ciphertext, entry.size_bytes]));
  const named = new Set([run.config_digest, run.initial_model, model.model, ...sizes.keys()]);
  for (const entry of state.entries("state.statistics")) named.add(entry.reference).add(entry.measured);
  for (const entry of state.entries("state.release")) named.add(entry.opening);
  for (const { public_context, base_model, outcome } of state.entries("state.round")) {
    for (const digest of [public_context, base_model, outcome.aggregate, outcome.opened, outcome.candidate]) named.add(digest);
  }
  for (const [digest, bytes] of artifacts) {
    const short = digest.slice(0, 16);
    need("Z16", named.has(digest), `no entry names the artifact ${short}`);
    need("Z16", (sizes.get(digest) ?? bytes.length) === bytes.length, `the ciphertext ${short} was submitted with another size`);
    need("Z16", (await sha256(bytes)) === digest, `the artifact ${short} does not have the bytes of its digest`);
  }
}

// Z17: the lineage events are those of their digests. Returns how many there are.
export async function checkLineage({ state, said }) {
  let events = 0;
  for (const entry of state.entries("state.lineage")) {
    const where = `lineage batch ${entry.batch} of round ${entry.round}`;
    const plain = await inflate(unhex(said.get(entry.origin.transaction).body.events), where);
    const lines = plain.reduce((count, byte, index) => {
      const ends = byte === 10 || index === plain.length - 1;
      need("Z17", byte !== 10 || (index > 0 && plain[index - 1] !== 10), `${where} has a blank line`);
      return count + (ends ? 1 : 0);
    }, 0);
    need("Z17", (await sha256(plain)) === entry.sha256 && lines === entry.count, `${where}: its events are not those of its digest and count`);
    events += lines;
  }
  return events;
}

// A2: one complete zlib stream of at most 8 MiB.
async function inflate(bytes, where) {
  const parts = [];
  let size = 0;
  try {
    for await (const part of new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))) {
      parts.push(part);
      size += part.length;
      if (size > MOST_PLAIN_BYTES) break;
    }
  } catch {
    size = MOST_PLAIN_BYTES + 1;
  }
  need("Z17", size <= MOST_PLAIN_BYTES, `${where}: its events are no zlib stream of at most 8 MiB`);
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}
