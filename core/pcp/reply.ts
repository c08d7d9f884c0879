/**
 * What a server answers over PCP (spec wire/pcp.md sections 4 and 5): an acknowledgement, one frame
 * of texts, or an array of frames; or an error, and notices around either.
 */

import { ByteReader } from "../wire/bytes.ts";
import { decodeText, encodeText } from "../wire/text.ts";
import { encodeFrame, PcpError, type PcpFrame } from "./frame.ts";

const COMPLETE = "CommandComplete";
const ARRAY_SIZE = "ArraySize";

/** One error or notice. Clients show the severity, the message and the detail. */
export type PcpReport = {
  readonly severity: string;
  readonly sqlstate: string;
  readonly message: string;
  readonly detail?: string | undefined;
  readonly hint?: string | undefined;
};

/** A field with its letter is cut to so many bytes; clients reserve no more. */
const FIELD_SIZE_MAX = 255;

export const encodeSalt = (salt: Uint8Array): Uint8Array =>
  encodeFrame("m", (body) => body.bytes(salt));

export const encodeAuthenticated = (): Uint8Array =>
  encodeFrame("r", (body) => body.cstring("AuthenticationOK"));

/** `CommandComplete`, and the texts that a command answers in one frame. */
export const encodeTexts = (letter: string, texts: readonly string[] = []): Uint8Array =>
  encodeFrame(letter, (body) => {
    body.cstring(COMPLETE);
    for (const text of texts) body.cstring(text);
  });

export type ArrayKind = "node_info" | "process_info" | "pool_status";
const arrays = {
  node_info: { letter: "i", tag: "NodeInfo" },
  process_info: { letter: "p", tag: "ProcessInfo" },
  pool_status: { letter: "b", tag: "ProcessConfig" },
} as const;

/** The size, the records and the end, as one run of frames. */
export function* encodeArray(
  kind: ArrayKind,
  records: readonly (readonly string[])[],
): Generator<Uint8Array> {
  const { letter, tag } = arrays[kind];
  yield encodeFrame(letter, (body) => {
    body.cstring(ARRAY_SIZE);
    // The one number of the protocol that is not text.
    if (kind === "pool_status") body.int32(records.length);
    else body.cstring(String(records.length));
  });
  for (const record of records) {
    yield encodeFrame(letter, (body) => {
      body.cstring(tag);
      for (const field of record) body.cstring(field);
    });
  }
  yield encodeTexts(letter);
}

export const encodeError = (report: PcpReport): Uint8Array => encodeReport("E", report);
export const encodeNotice = (report: PcpReport): Uint8Array => encodeReport("N", report);

function encodeReport(letter: string, report: PcpReport): Uint8Array {
  const { severity, sqlstate, message, detail, hint } = report;
  return encodeFrame(letter, (body) => {
    const field = (code: string, value: string | undefined) => {
      if (value === undefined) return;
      body.bytes(cutField(code + safeText(value))).int8(0);
    };
    field("S", severity === "DEBUG" ? "DEBUG" : severity);
    field("C", sqlstate);
    field("M", message);
    field("D", detail);
    field("H", hint);
    body.int8(0);
  });
}

/**
 * Every released client scans the text of a field as if it were fields, and loses it when it begins
 * with the letter of one (spec section 5).
 */
function safeText(text: string): string {
  const whole = text.replaceAll("\0", "");
  return /^[SMD][^A-Z]/.test(whole) ? whole.charAt(0).toLowerCase() + whole.slice(1) : whole;
}

function cutField(field: string): Uint8Array {
  const bytes = encodeText(field);
  if (bytes.length <= FIELD_SIZE_MAX) return bytes;
  let end = FIELD_SIZE_MAX;
  while (((bytes[end] ?? 0) & 0xc0) === 0x80) end--; // never within a character
  return bytes.subarray(0, end);
}

export function decodeReport({ body }: PcpFrame): PcpReport {
  const fields = new Map<string, string>();
  let at = 0;
  while (at < body.length && body[at] !== 0) {
    const zero = body.indexOf(0, at);
    const end = zero < 0 ? body.length : zero;
    fields.set(String.fromCharCode(body[at] ?? 0), decodeText(body.subarray(at + 1, end)));
    at = end + 1;
  }
  return {
    severity: fields.get("S") ?? "ERROR",
    sqlstate: fields.get("C") ?? "XX000",
    message: fields.get("M") ?? "",
    detail: fields.get("D"),
    hint: fields.get("H"),
  };
}

/** A whole answer, whatever its shape on the wire. */
export type PcpReply = {
  /** Of an answer in one frame: what follows `CommandComplete`. Else empty. */
  readonly texts: readonly string[];
  /** Of an array: its records, each without its tag. */
  readonly records: readonly (readonly string[])[];
};

/**
 * Puts one answer together from its frames. `add` returns it when it is whole. Reads what is there
 * and believes no count: an array ends where its last frame says so.
 */
export class ReplyReader {
  readonly #records: string[][] = [];
  #announced = false;

  /** @throws PcpError when the frame is none of an answer */
  add({ letter, body }: PcpFrame): PcpReply | undefined {
    const reader = new ByteReader(body, `PCP reply "${letter}"`);
    const tag = reader.cstring();
    if (tag === COMPLETE) {
      const texts = stringsOf(reader);
      // One node in one frame is how servers before 4.3 answer.
      return { texts, records: this.#records };
    }
    if (tag === ARRAY_SIZE && !this.#announced) {
      this.#announced = true;
      return undefined;
    }
    if (!this.#announced || !Object.values(arrays).some((array) => array.tag === tag)) {
      throw new PcpError("invalid response from PCP server", { detail: `unexpected "${tag}"` });
    }
    this.#records.push(stringsOf(reader));
    return undefined;
  }
}

function stringsOf(reader: ByteReader): string[] {
  const strings: string[] = [];
  while (reader.remaining > 0) strings.push(reader.cstring());
  return strings;
}
