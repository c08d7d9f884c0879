/** Messages as syslog takes them: a priority, and lines of limited length with a number. */

import { cutBytes } from "./cut.ts";
import type { LogSeverity } from "./ports.ts";

/** Pgpool's choice, as PostgreSQL's: what is an error to one statement is a warning to the host. */
const LEVEL: { readonly [S in LogSeverity]: number } = {
  DEBUG5: 7,
  DEBUG4: 7,
  DEBUG3: 7,
  DEBUG2: 7,
  DEBUG1: 7,
  LOG: 6,
  INFO: 6,
  NOTICE: 5,
  WARNING: 5,
  ERROR: 4,
  FRONTEND_ERROR: 4,
  FATAL: 3,
  PANIC: 2,
};

const LOCAL0 = 16;

/** The number in `<…>` before a message. `facility` is `LOCAL0` to `LOCAL7`. */
export function syslogPriority(facility: string, severity: LogSeverity): number {
  const code = LOCAL0 + Number(facility.slice("LOCAL".length));
  return code * 8 + LEVEL[severity];
}

/** Bytes of text in one line. */
const LINE_SIZE_MAX = 900;

/** `[7] text`, or `[7-1] …`, `[7-2] …` when the text has several lines or is long. */
export function syslogLines(sequence: number, text: string): readonly string[] {
  const lines = text.split("\n").filter((line) => line !== "");
  const pieces = lines.flatMap(splitLong);
  const [only] = pieces;
  if (only !== undefined && pieces.length === 1) return [`[${sequence}] ${only}`];
  return pieces.map((piece, at) => `[${sequence}-${at + 1}] ${piece}`);
}

/** Cuts at the last blank that fits, or in the middle of a word longer than a line. */
function splitLong(line: string): readonly string[] {
  const pieces: string[] = [];
  let rest = line;
  for (;;) {
    const fits = cutBytes(rest, LINE_SIZE_MAX);
    if (fits.length === rest.length) return [...pieces, rest];
    const blank = fits.search(/\s\S*$/);
    const length = blank > 0 ? blank + 1 : fits.length;
    pieces.push(rest.slice(0, length).trimEnd());
    rest = rest.slice(length);
  }
}
