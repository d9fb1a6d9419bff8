// Whether the parts of a model's history fit together (Z12 to Z18 of ledger/SPEC.md).

import { text, unhex } from "./encoding.js";
import { sha256 } from "./digests.js";
import { ascending, need } from "./chain.js";
import { places, placesIn } from "./history.js";

const MOST_PLAIN_BYTES = 8 * 1024 * 1024;

const earlier = (one, other) => one[0] < other[0] || (one[0] === other[0] && one[1] < other[1]);
const inOrder = (...places) => places.every((place, index) => index === 0 || earlier(places[index - 1], place));
const placeOf = (story, origin) => (origin.height ? story.said.get(origin.transaction).place : [0, 0]);

// Z18: what a key signs that is not the present one of its identity, it signed while it was.
export async function checkKeys({ said, state }) {
  for (const item of said.values()) {
    const { tag } = item.body;
    const { name } = await state.must("state.account", item.author);
    const present = (await state.must("state.identity", name)).public_key === item.author;
    const former = present || tag === "identity.accept" ? null : await state.ask("state.former-key", item.author);
    need("Z18", present || tag === "identity.accept" || former, `${name} speaks with a key that is not shown to be or have been its own`);
    const [since, until] = former ? [placeOf({ said }, former.since), placeOf({ said }, former.until)] : [];
    need("Z18", !former || (earlier(since, item.place) && !earlier(until, item.place)), `${name} speaks with a key before or after that was its own`);
    const over = former && !earlier(item.place, until);
    need("Z18", tag !== "identity.rotate" || over, `${name} names another key in place of one that went on`);
  }
}

// Z12, and Z13's first sentence: each author's numbers ascend, and nobody speaks before being registered.
export async function checkSequences({ said, state }) {
  const rotations = [...said.values()].filter(({ body }) => body.tag === "identity.rotate");
  const last = new Map(rotations.map((item) => [item.body.public_key, item.sequence]));
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
  await checkPlaces(story);
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

// Where a site got its place in the run: in its declaration, or later.
const given = (story, use) => placeOf(story, use.origin ?? story.run.origin);

// Z13, Z14: whose tables they are, and that there was a place for each site when it was given one.
async function checkPlaces(story) {
  const { state, run, model } = story;
  const all = places(run);
  for (const use of all) {
    const table = await state.must("state.dataset", use.dataset);
    const own = table.owner === use.site && earlier(placeOf(story, table.origin), given(story, use));
    need("Z14", own, `the table of ${use.site} is not its own, or was registered after the run had a place for it`);
  }
  const fits = new Set(all.map((use) => use.site)).size === all.length && all.length <= Math.max(Number(run.maximum_sites), run.datasets.length);
  need("Z14", fits, `the run has places for ${all.length} sites, one of them twice or more than it was declared for`);
  for (const one of run.joined) {
    const round = async (number) => (number >= 1 && number <= model.round ? state.must("state.round", run.run, number) : null);
    const since = Number(one.since);
    const [last, first] = [await round(since - 1), await round(since)];
    const between = since >= 1 && earlier(placeOf(story, last?.opened ?? run.origin), given(story, one));
    need("Z13", between && (!first || earlier(given(story, one), placeOf(story, first.opened))), `${one.site} was not admitted between the openings of rounds ${since - 1} and ${since}, its first`);
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
  for (const use of placesIn(run, number)) {
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
      const fresh = sent.lag >= 0 && sent.lag <= run.max_staleness && sent.lag < number;
      need("Z14", fresh, `round ${number}: ${use.site} trained from a model of ${sent.lag} rounds before, which the run does not take`);
    }
  }
  const sites = round.sealed_sites;
  const whole = ascending(sites) && sites.every((site) => submitted.has(site)) && sites.length >= run.minimum_sites;
  need("Z14", whole, `round ${number}: the sealed set is unordered, too small, or names a site that did not submit`);
}

// Z15: every consent stood when its site got its place in the run, at each submission and at each seal.
export async function checkConsents(story) {
  const { state, run, model } = story;
  for (const use of places(run)) {
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
    need("Z15", standing(given(story, use)), `${where} did not stand when the site got its place in the run`);
    for (let number = Number(use.since ?? 1); number <= model.round; number++) {
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

// Z17: the lineage events are those of their digests, by somebody who may append them. Returns how many there are, and how many of them a
// site says of what it did not do.
export async function checkLineage({ state, said, run }) {
  let [events, foreign] = [0, 0];
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
    if (entry.author === run.coordinator) continue;
    need("Z17", places(run).some((use) => use.site === entry.author), `${where} is by ${entry.author}, who has no part in the run`);
    foreign += await countForeign(plain, run.run, entry.author);
  }
  return { events, foreign };
}

// A7: how many lines of a site's batch are not its own.
async function countForeign(plain, run, site) {
  const mark = (await sha256(text(`${run}/${site}`))).slice(0, 12);
  const identifier = new RegExp(`^${mark.slice(0, 8)}-${mark.slice(8)}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`);
  const own = (name) => name.startsWith(`site/${site}/`);
  const isOwn = (line) => {
    try {
      const { run: step, inputs = [], outputs = [] } = JSON.parse(line);
      return identifier.test(step.runId)
        && inputs.every(({ name }) => own(name) || !name.startsWith("site/"))
        && outputs.every(({ name }) => own(name) || name === "ledger/transactions");
    } catch {
      return false;
    }
  };
  return new TextDecoder().decode(plain).replace(/\n$/, "").split("\n").filter((line) => !isOwn(line)).length;
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
