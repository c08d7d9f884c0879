/** Small pieces that both query protocols need: texts out of frames, messages of our own. */
import { Buffer } from "node:buffer";
import { errorResponse } from "../../core/wire/backend.ts";
import { FAILED, IN_TRANSACTION } from "./replies.ts";

/** What every Buffer has and works on any bytes: a third of TextDecoder's cost, and no view is made. */
const { utf8Slice } = Buffer.prototype as unknown as {
  readonly utf8Slice: (this: Uint8Array, from: number, to: number) => string;
};

export function text(bytes: Uint8Array, from: number, to: number): string {
  return utf8Slice.call(bytes, from, to);
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
