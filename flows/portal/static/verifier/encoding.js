// Bytes, hexadecimal digits, and MessagePack as rules E1 to E3 of ledger/SPEC.md have it: nil, truth values, integers, text, bytes and arrays,
// each in its shortest form, and nothing else.

export class Malformed extends Error {}

export const hex = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");

// Raises Malformed for anything but pairs of hexadecimal digits.
export function unhex(text) {
  if (typeof text !== "string" || !/^([0-9a-f]{2})*$/.test(text)) throw new Malformed("no hexadecimal digits");
  return Uint8Array.from(text.match(/../g) ?? [], (pair) => parseInt(pair, 16));
}

export function concat(...parts) {
  const joined = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    joined.set(part, at);
    at += part.length;
  }
  return joined;
}

const utf8 = new TextEncoder();
const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
export const text = (value) => utf8.encode(value);

// One value that fills `bytes`. Integers beyond 2^53 are BigInts; an array has the bytes it was read from as `raw`. Raises Malformed.
export function decode(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let at = 0;

  function take(count) {
    if (at + count > bytes.length) throw new Malformed("it ends early");
    at += count;
    return at - count;
  }

  function unsigned(size) {
    const from = take(size);
    if (size === 8) return view.getBigUint64(from);
    return size === 1 ? view.getUint8(from) : size === 2 ? view.getUint16(from) : view.getUint32(from);
  }

  function signed(size) {
    const from = take(size);
    if (size === 8) return view.getBigInt64(from);
    return size === 1 ? view.getInt8(from) : size === 2 ? view.getInt16(from) : view.getInt32(from);
  }

  // A number in its shortest form is too large for the next shorter one.
  function above(number, limit) {
    if (number <= limit) throw new Malformed("an integer or length in a longer form than it needs");
    return Number.isSafeInteger(Number(number)) ? Number(number) : number;
  }

  function below(number, limit) {
    if (number >= limit) throw new Malformed("an integer in a longer form than it needs");
    return Number.isSafeInteger(Number(number)) ? Number(number) : number;
  }

  function string(length) {
    const from = take(length);
    try {
      return strict.decode(bytes.subarray(from, at));
    } catch {
      throw new Malformed("text that is no UTF-8");
    }
  }

  function binary(length) {
    const from = take(length);
    return bytes.slice(from, at);
  }

  function array(length, from, depth) {
    if (length > bytes.length) throw new Malformed("it ends early");
    const found = [];
    for (let index = 0; index < length; index++) found.push(value(depth + 1));
    found.raw = bytes.subarray(from, at);
    return found;
  }

  function value(depth) {
    if (depth > 64) throw new Malformed("it is nested too deeply");
    const from = at;
    const head = unsigned(1);
    if (head < 0x80) return head;
    if (head >= 0xe0) return head - 0x100;
    if (head >= 0xa0 && head < 0xc0) return string(head & 0x1f);
    if (head >= 0x90 && head < 0xa0) return array(head & 0x0f, from, depth);
    switch (head) {
      case 0xc0: return null;
      case 0xc2: return false;
      case 0xc3: return true;
      case 0xc4: return binary(unsigned(1));
      case 0xc5: return binary(above(unsigned(2), 0xff));
      case 0xc6: return binary(above(unsigned(4), 0xffff));
      case 0xcc: return above(unsigned(1), 0x7f);
      case 0xcd: return above(unsigned(2), 0xff);
      case 0xce: return above(unsigned(4), 0xffff);
      case 0xcf: return above(unsigned(8), 0xffffffffn);
      case 0xd0: return below(signed(1), -0x20);
      case 0xd1: return below(signed(2), -0x80);
      case 0xd2: return below(signed(4), -0x8000);
      case 0xd3: return below(signed(8), -0x80000000n);
      case 0xd9: return string(above(unsigned(1), 0x1f));
      case 0xda: return string(above(unsigned(2), 0xff));
      case 0xdb: return string(above(unsigned(4), 0xffff));
      case 0xdc: return array(above(unsigned(2), 0x0f), from, depth);
      case 0xdd: return array(above(unsigned(4), 0xffff), from, depth);
      default: throw new Malformed(`byte ${head.toString(16)} begins nothing that a record holds`);
    }
  }

  const found = value(0);
  if (at !== bytes.length) throw new Malformed("something is left over at its end");
  return found;
}

// The bytes of text, whole numbers from 0 to 2^64 - 1, bytes and arrays of these.
export function encode(value) {
  if (value instanceof Uint8Array) return concat(length(value.length, [[0xff, 0xc4, 1], [0xffff, 0xc5, 2], [2 ** 32 - 1, 0xc6, 4]]), value);
  if (Array.isArray(value)) {
    const count = value.length;
    const head = count < 16 ? Uint8Array.of(0x90 | count) : length(count, [[0xffff, 0xdc, 2], [2 ** 32 - 1, 0xdd, 4]]);
    return concat(head, ...value.map(encode));
  }
  if (typeof value === "string") {
    const bytes = text(value);
    const short = bytes.length < 32 ? Uint8Array.of(0xa0 | bytes.length) : null;
    return concat(short ?? length(bytes.length, [[0xff, 0xd9, 1], [0xffff, 0xda, 2], [2 ** 32 - 1, 0xdb, 4]]), bytes);
  }
  if (value < 0 || value >= 2n ** 64n) throw new Malformed(`${value} is no integer from 0 to 2^64 - 1`);
  if (value < 0x80) return Uint8Array.of(Number(value));
  return length(value, [[0xff, 0xcc, 1], [0xffff, 0xcd, 2], [2 ** 32 - 1, 0xce, 4], [2n ** 64n - 1n, 0xcf, 8]]);
}

function length(number, forms) {
  const [, head, size] = forms.find(([most]) => number <= most);
  const bytes = new Uint8Array(1 + size);
  bytes[0] = head;
  for (let place = size, left = BigInt(number); place > 0; place--, left >>= 8n) bytes[place] = Number(left & 0xffn);
  return bytes;
}
