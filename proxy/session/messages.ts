/** Small pieces that both query protocols need: texts out of frames, messages of our own. */
import { Buffer } from "node:buffer";
import { decodeBackend, errorResponse } from "../../core/wire/backend.ts";
import { frameOf } from "../../core/wire/frame.ts";
import { decodeText } from "../../core/wire/text.ts";
import { FAILED, IN_TRANSACTION } from "./replies.ts";

/** What every Buffer has and works on any bytes: a third of TextDecoder's cost, and no view is made. */
const { utf8Slice, latin1Slice } = Buffer.prototype as unknown as {
  readonly [name in "utf8Slice" | "latin1Slice"]: (
    this: Uint8Array,
    from: number,
    to: number,
  ) => string;
};

export function text(bytes: Uint8Array, from: number, to: number): string {
  return utf8Slice.call(bytes, from, to);
}

/** A character for each byte, whatever the bytes are: for comparing. */
export function byteText(bytes: Uint8Array, from: number, to: number): string {
  return latin1Slice.call(bytes, from, to);
}

export function queryMessage(sql: string): Uint8Array {
  const body = Buffer.from(`${sql}\0`);
  const message = new Uint8Array(5 + body.length);
  message[0] = 0x51;
  new DataView(message.buffer).setInt32(1, 4 + body.length);
  message.set(body, 5);
  return message;
}

export function statusLetter(status: number): "I" | "T" | "E" {
  return status === IN_TRANSACTION ? "T" : status === FAILED ? "E" : "I";
}

/** The text and code are PostgreSQL's own, so that a client cannot tell who answered. */
export const transactionFailed = errorResponse({
  severity: "ERROR",
  code: "25P02",
  message: "current transaction is aborted, commands ignored until end of transaction block",
});

/** The ErrorResponse with another place in its field P, if it has one; in whatever encoding it is. */
export function withPlace(error: Uint8Array, placeOf: (place: number) => number): Uint8Array {
  for (let at = 5; error[at] !== 0 && at < error.length; ) {
    const end = error.indexOf(0, at);
    if (end < 0) break;
    if (error[at] === 0x50) {
      const place = Buffer.from(String(placeOf(Number(text(error, at + 1, end)))));
      const moved = Buffer.concat([error.subarray(0, at + 1), place, error.subarray(end)]);
      moved.writeInt32BE(moved.length - 1, 1);
      return moved;
    }
    at = end + 1;
  }
  return error;
}

/** The columns of a DataRow frame as texts. */
export function valuesOf(row: Uint8Array | undefined): readonly (string | null)[] | undefined {
  if (row === undefined) return undefined;
  const message = decodeBackend(frameOf(row));
  if (message.kind !== "DataRow") return undefined;
  return message.values.map((value) => (value === null ? null : decodeText(value)));
}
