// SHA-256 and Ed25519 by the browser's own WebCrypto, and the tags of rules K1 and K3 of ledger/SPEC.md.

import { concat, hex, text, unhex } from "./encoding.js";

// SHA-256 of bytes, as hexadecimal digits.
export async function sha256(bytes) {
  return hex(new Uint8Array(await crypto.subtle.digest("SHA-256", bytes)));
}

// K1: the digest of bytes under a tag.
export function tagged(kind, bytes) {
  const tag = text(`cifer/${kind}/1`);
  return sha256(concat(Uint8Array.of(tag.length), tag, bytes));
}

const PRIME = 2n ** 255n - 19n;
const ORDER_8 = 0x7a03ac9277fdc74ec6cc392cfa53202a0f67100d760b3cba4fd84d3d706a17c7n;
const SMALL_ORDER = new Set([0n, 1n, PRIME - 1n, ORDER_8, PRIME - ORDER_8]);

// Of a point's 32 bytes, y alone: little-endian, without the sign of x.
const yOf = (bytes) => BigInt(`0x${hex(bytes.toReversed())}`) & (2n ** 255n - 1n);

// K5 as far as it goes without arithmetic on the curve: canonical, and not of small order.
export const isKey = (bytes) => bytes.length === 32 && yOf(bytes) < PRIME && !SMALL_ORDER.has(yOf(bytes));

// K4: whether a signature of a message holds. WebCrypto compares the equation without the cofactor and refuses S that is not below the group
// order; keys and R of small order, which it lets in, are refused here. The digits of a key, bytes, the digits of a signature.
export async function holds(key, message, signature) {
  const [point, whole] = [unhex(key), unhex(signature)];
  if (whole.length !== 64 || !isKey(point) || SMALL_ORDER.has(yOf(whole.slice(0, 32)) % PRIME)) return false;
  const public_ = await crypto.subtle.importKey("raw", point, "Ed25519", false, ["verify"]);
  return crypto.subtle.verify("Ed25519", public_, whole, message);
}

// K2: whether a signature of bytes as this kind of message holds.
export const signed = async (key, kind, bytes, signature) => holds(key, unhex(await tagged(kind, bytes)), signature);

// Whether this browser can verify Ed25519 at all (Chromium 137, Firefox 129, Safari 17 and later), tried with test 1 of RFC 8032, 7.1.
export async function canVerify() {
  const key = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
  const signature = "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b";
  try {
    const public_ = await crypto.subtle.importKey("raw", unhex(key), "Ed25519", false, ["verify"]);
    return await crypto.subtle.verify("Ed25519", public_, unhex(signature), new Uint8Array());
  } catch {
    return false;
  }
}
