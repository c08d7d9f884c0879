/**
 * The usual way in which drivers of the extended protocol run one statement: `[Parse] Bind [Describe]
 * Execute Sync`, of the unnamed portal, all of its rows, in one go. As such it can be answered from
 * memory like a simple query. Everything else takes its usual way.
 */

import { int32 } from "./replies.ts";

/** Places are those of bytes; `end` is behind the frame. */
export type Unit = {
  /** A Parse of the unnamed statement. */
  readonly parse: { readonly at: number; readonly end: number } | undefined;
  /** The name of the statement, and all that follows it in Bind: formats and values. */
  readonly nameAt: number;
  readonly valuesAt: number;
  readonly bindEnd: number;
  readonly describes: boolean;
  /** Behind Sync. */
  readonly end: number;
};

const PARSE = 0x50;
const BIND = 0x42;
const DESCRIBE = 0x44;
const EXECUTE = 0x45;
const SYNC = 0x53;
/** Describe of the unnamed portal; Execute of it without a limit; Sync: whole frames. */
const describeFrame = Uint8Array.of(DESCRIBE, 0, 0, 0, 6, 0x50, 0);
const executeFrame = Uint8Array.of(EXECUTE, 0, 0, 0, 9, 0, 0, 0, 0, 0);
const syncFrame = Uint8Array.of(SYNC, 0, 0, 0, 4);

/** Undefined where the bytes at `at` are none, or not all of it has come yet. */
export function unitAt(bytes: Uint8Array, at: number): Unit | undefined {
  let parse: Unit["parse"];
  let bindAt = at;
  if (bytes[at] === PARSE) {
    const end = frameEnd(bytes, at);
    if (end === undefined || bytes[at + 5] !== 0) return undefined;
    parse = { at, end };
    bindAt = end;
  }
  const bindEnd = bytes[bindAt] === BIND ? frameEnd(bytes, bindAt) : undefined;
  // The portal has no name, and neither has a statement that was parsed just before.
  if (bindEnd === undefined || bytes[bindAt + 5] !== 0) return undefined;
  const nameAt = bindAt + 6;
  const nameEnd = bytes.indexOf(0, nameAt);
  if (nameEnd < 0 || nameEnd >= bindEnd) return undefined;
  if (parse !== undefined && nameEnd !== nameAt) return undefined;
  const describes = isAt(bytes, bindEnd, describeFrame);
  const executeAt = describes ? bindEnd + describeFrame.length : bindEnd;
  const syncAt = executeAt + executeFrame.length;
  if (!isAt(bytes, executeAt, executeFrame) || !isAt(bytes, syncAt, syncFrame)) return undefined;
  const end = syncAt + syncFrame.length;
  return { parse, nameAt, valuesAt: nameEnd + 1, bindEnd, describes, end };
}

function frameEnd(bytes: Uint8Array, at: number): number | undefined {
  if (at + 5 > bytes.length) return undefined;
  const length = int32(bytes, at + 1);
  const end = at + 1 + length;
  return length >= 6 && end <= bytes.length ? end : undefined;
}

function isAt(bytes: Uint8Array, at: number, frame: Uint8Array): boolean {
  if (at + frame.length > bytes.length) return false;
  for (let i = 0; i < frame.length; i++) if (bytes[at + i] !== frame[i]) return false;
  return true;
}
