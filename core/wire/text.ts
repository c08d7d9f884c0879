/**
 * Text of the protocol, without loss. Nearly all of it is UTF-8, but a client_encoding such as LATIN1
 * or SJIS puts other bytes into strings, start-up parameters and statements included. Each byte that
 * is not part of valid UTF-8 becomes one lone surrogate U+DC80…U+DCFF and turns back into that byte
 * (the scheme Python calls surrogateescape), so that whatever was decoded encodes to the same bytes.
 */

// A byte order mark is data here: a decoder that strips it would change the message.
const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
const encoder = new TextEncoder();

const REPLACEMENT = "\ufffd";
const ESCAPE_BASE = 0xdc00;

/** Any bytes as text; `encodeText` gives the same bytes back. */
export function decodeText(bytes: Uint8Array): string {
  const text = decoder.decode(bytes);
  return text.includes(REPLACEMENT) ? decodeEscaping(bytes) : text;
}

/**
 * UTF-8, except that U+DC80…U+DCFF standing alone are the bytes they were made from. Other lone
 * surrogates, which no decoded text contains, become U+FFFD.
 */
export function encodeText(text: string): Uint8Array {
  return text.isWellFormed() ? encoder.encode(text) : encodeEscaped(text);
}

/**
 * Encodes into `target` and returns the bytes written, or undefined when the text holds escaped bytes
 * and needs `encodeText`. The target must have room for three bytes for each UTF-16 unit.
 */
export function encodeTextInto(text: string, target: Uint8Array): number | undefined {
  return text.isWellFormed() ? encoder.encodeInto(text, target).written : undefined;
}

function decodeEscaping(bytes: Uint8Array): string {
  const pieces: string[] = [];
  let validFrom = 0;
  let at = 0;
  while (at < bytes.length) {
    const size = sequenceSize(bytes, at);
    if (size === 0) {
      pieces.push(decoder.decode(bytes.subarray(validFrom, at)));
      pieces.push(String.fromCharCode(ESCAPE_BASE + (bytes[at] ?? 0)));
      validFrom = at + 1;
    }
    at += size || 1;
  }
  pieces.push(decoder.decode(bytes.subarray(validFrom)));
  return pieces.join("");
}

/** Bytes in the UTF-8 sequence at `at`; 0 when there is none (table 3-7 of the Unicode standard). */
function sequenceSize(bytes: Uint8Array, at: number): number {
  const first = bytes[at] ?? 0;
  if (first < 0x80) return 1;
  if (first < 0xc2 || first > 0xf4) return 0;
  const size = first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
  // The second byte's range excludes overlong forms, surrogates and what lies beyond U+10FFFF.
  const low = first === 0xe0 ? 0xa0 : first === 0xf0 ? 0x90 : 0x80;
  const high = first === 0xed ? 0x9f : first === 0xf4 ? 0x8f : 0xbf;
  const second = bytes[at + 1] ?? 0;
  if (second < low || second > high) return 0;
  for (let i = 2; i < size; i++) {
    if (((bytes[at + i] ?? 0) & 0xc0) !== 0x80) return 0;
  }
  return size;
}

function encodeEscaped(text: string): Uint8Array {
  const bytes = new Uint8Array(text.length * 3);
  let length = 0;
  // By code points, so that the low half of a proper pair is never taken for an escaped byte.
  for (const character of text) {
    const code = character.charCodeAt(0);
    if (code >= ESCAPE_BASE + 0x80 && code <= ESCAPE_BASE + 0xff) {
      bytes[length++] = code - ESCAPE_BASE;
    } else {
      length += encoder.encodeInto(character, bytes.subarray(length)).written;
    }
  }
  return bytes.subarray(0, length);
}
