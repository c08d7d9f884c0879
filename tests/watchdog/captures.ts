/** What real Pgpool-II 4.3.5 nodes said, from captures.txt. */

import { readFileSync } from "node:fs";
import { join } from "node:path";

const encoder = new TextEncoder();

export type CapturedPacket = {
  readonly line: string;
  /** From a writer that spaces its JSON otherwise: readable, and not to be written alike. */
  readonly isForeign: boolean;
  readonly letter: string;
  readonly id: number;
  readonly body: Uint8Array;
};

export type CapturedIpc = {
  readonly line: string;
  readonly direction: ">" | "<";
  readonly letter: string;
  readonly body: Uint8Array;
};

export type CapturedHeartbeat = { readonly key: string; readonly bytes: Uint8Array };

const lines = readFileSync(join(import.meta.dirname, "captures.txt"), "utf8").split("\n");
const bodyOf = (text: string): Uint8Array => encoder.encode(text.replace(/\\0$/, "\0"));

export const packets: readonly CapturedPacket[] = lines.flatMap((line) => {
  const match = /^tcp \S+( mock)? (\S) (\d+) ?(.*)$/.exec(line);
  if (match === null) return [];
  const [, mock, letter = "", id, body = ""] = match;
  return [{ line, isForeign: mock !== undefined, letter, id: Number(id), body: bodyOf(body) }];
});

export const ipcFrames: readonly CapturedIpc[] = lines.flatMap((line) => {
  const match = /^ipc ([<>]) (\S) ?(.*)$/.exec(line);
  if (match === null) return [];
  const [, direction, letter = "", body = ""] = match;
  return [{ line, direction: direction === ">" ? ">" : "<", letter, body: bodyOf(body) }];
});

export const heartbeats: readonly CapturedHeartbeat[] = lines.flatMap((line) => {
  const match = /^udp (\S+) (\S+)$/.exec(line);
  if (match === null) return [];
  const [, key = "", hex = ""] = match;
  return [{ key: key === "-" ? "" : key, bytes: Buffer.from(hex, "hex") }];
});

/** The bytes of a captured packet as they were on the wire. */
export function bytesOf({ letter, id, body }: CapturedPacket): Uint8Array {
  const bytes = Buffer.alloc(9 + body.length);
  bytes.write(letter);
  bytes.writeUInt32BE(id, 1);
  bytes.writeUInt32BE(body.length, 5);
  bytes.set(body, 9);
  return bytes;
}
