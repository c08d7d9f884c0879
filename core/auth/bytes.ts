/**
 * The few byte operations that password sums need. Secrets are bytes everywhere in core/auth: a
 * password is what the client typed, in whatever encoding, and two different byte strings must
 * never become equal by a lossy decoding.
 */
import { createHash, createHmac, timingSafeEqual } from "node:crypto";

/** One character per byte, so that text tools work on bytes of any encoding and nothing is lost. */
export function latin1(bytes: Uint8Array): string {
  const chunkSize = 4096; // arguments of one call are bounded by the engine's stack
  let text = "";
  for (let at = 0; at < bytes.length; at += chunkSize) {
    text += String.fromCharCode(...bytes.subarray(at, at + chunkSize));
  }
  return text;
}

/** The inverse of `latin1`. */
export const fromLatin1 = (text: string): Uint8Array =>
  Uint8Array.from(text, (character) => character.charCodeAt(0));

export function concatBytes(...parts: readonly Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/** Both must be of one length. */
export const xorBytes = (left: Uint8Array, right: Uint8Array): Uint8Array =>
  left.map((byte, at) => byte ^ (right[at] ?? 0));

export const sha256 = (data: Uint8Array): Uint8Array => createHash("sha256").update(data).digest();

export const hmacSha256 = (key: Uint8Array, data: Uint8Array): Uint8Array =>
  createHmac("sha256", key).update(data).digest();

/** Equality whose time tells neither where the texts differ nor how long the secret one is. */
export const equalSecrets = (left: Uint8Array, right: Uint8Array): boolean =>
  timingSafeEqual(sha256(left), sha256(right));

const base64Shape = /^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/;

/**
 * Standard base64 and nothing else: no whitespace, padding present, unused bits zero. Undefined
 * when the text is anything else.
 */
export function decodeBase64(text: string): Uint8Array | undefined {
  if (!base64Shape.test(text)) return undefined;
  try {
    return Uint8Array.fromBase64(text, { lastChunkHandling: "strict" });
  } catch {
    return undefined; // the shape was right, so bits beyond the last byte were set
  }
}

export const encodeBase64 = (bytes: Uint8Array): string => bytes.toBase64();

/** Strict UTF-8, or undefined. A leading byte order mark is kept: it is part of the password. */
export function decodeUtf8(bytes: Uint8Array): string | undefined {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return undefined; // not UTF-8
  }
}
