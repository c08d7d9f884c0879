/** The messages of the extended protocol, as clients send them. */
import { cString, frame, int32s } from "./raw_peer.ts";

/** What a parameter is given, as text. */
export type BoundValue = string | number | null;

const int16s = (...values: readonly number[]): Buffer =>
  Buffer.from(values.flatMap((value) => [value >> 8, value & 255]));

/** `types`: of the parameters, by OID. */
export const parse = (name: string, sql: string, types: readonly number[] = []): Buffer =>
  frame("P", cString(name), cString(sql), int16s(types.length), int32s(...types));

/** `formats`: of the result's columns, 1 is binary. */
export function bind(
  statement: string,
  values: readonly BoundValue[] = [],
  { portal = "", formats = [] }: { portal?: string; formats?: readonly number[] } = {},
): Buffer {
  const names = [cString(portal), cString(statement)];
  const results = int16s(formats.length, ...formats);
  return frame("B", ...names, int16s(0, values.length), ...values.map(parameter), results);
}

function parameter(value: BoundValue): Buffer {
  if (value === null) return int32s(-1);
  const bytes = Buffer.from(String(value));
  return Buffer.concat([int32s(bytes.length), bytes]);
}

export const describeStatement = (name: string): Buffer =>
  frame("D", Buffer.from("S"), cString(name));
export const describePortal = (name = ""): Buffer => frame("D", Buffer.from("P"), cString(name));
export const closeStatement = (name: string): Buffer => frame("C", Buffer.from("S"), cString(name));
export const execute = (portal = "", rowsMax = 0): Buffer =>
  frame("E", cString(portal), int32s(rowsMax));
export const sync: Buffer = frame("S");
export const flush: Buffer = frame("H");
