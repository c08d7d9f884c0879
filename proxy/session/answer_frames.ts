/**
 * An answer as it was sent to the client, looked at once more before it is kept: the rows of one
 * SELECT and nothing else (manual: "Message Flow").
 */

import { BACKEND } from "../../core/wire/codes.ts";
import { IDLE, int32 } from "./replies.ts";

const READY_SIZE = 6;
const SELECT_TAG = Buffer.from("SELECT ");

/**
 * The pieces joined, `size` bytes in all, with a ReadyForQuery that says "idle" at their end; what follows it is left out.
 * Undefined when a notice or an error is among them, when they are no SELECT's, or when they are
 * larger than `bytesMax` without that ReadyForQuery.
 */
export function keepable(
  pieces: readonly Uint8Array[],
  size: number,
  bytesMax: number,
): Uint8Array | undefined {
  const bytes = joined(pieces, size);
  const end = endOfAnswer(bytes);
  if (end === undefined || end - READY_SIZE > bytesMax) return undefined;
  bytes[end - 1] = IDLE;
  return end === size ? bytes : bytes.slice(0, end);
}

/** A copy of its own: what was received may be a small part of a large buffer. */
function joined(pieces: readonly Uint8Array[], size: number): Uint8Array {
  const whole = new Uint8Array(size);
  let at = 0;
  for (const piece of pieces) {
    whole.set(piece, at);
    at += piece.length;
  }
  return whole;
}

/** Behind the ReadyForQuery. */
function endOfAnswer(bytes: Uint8Array): number | undefined {
  let at = 0;
  let isComplete = false;
  while (at + 5 <= bytes.length) {
    const type = bytes[at] as number;
    const end = at + 1 + int32(bytes, at + 1);
    if (end <= at || end > bytes.length) return undefined;
    switch (type) {
      case BACKEND.DataRow:
      case BACKEND.RowDescription:
      case BACKEND.ParseComplete:
      case BACKEND.BindComplete:
        if (isComplete) return undefined;
        break;
      case BACKEND.CommandComplete:
        if (isComplete || !startsWith(bytes, at + 5, SELECT_TAG)) return undefined;
        isComplete = true;
        break;
      case BACKEND.ReadyForQuery:
        return isComplete ? end : undefined;
      default:
        return undefined;
    }
    at = end;
  }
  return undefined;
}

function startsWith(bytes: Uint8Array, at: number, text: Uint8Array): boolean {
  for (let i = 0; i < text.length; i++) if (bytes[at + i] !== text[i]) return false;
  return true;
}
