/** `log_line_prefix`: text with `%` escapes, each with an optional width. */

import type { LogSource } from "./ports.ts";
import { formatTime, formatTimeMs } from "./time.ts";

/** A stretch of plain text, or an escape with its width (negative: left-aligned). */
type Part = string | { readonly letter: string; readonly width: number };

/** Parsed formats; a program sees a handful in its life, so the few are kept. */
const parsed = new Map<string, readonly Part[]>();
const PARSED_MAX = 16;

/** `now` is milliseconds since the epoch; `line` the number of this line, for `%l`. */
export function renderPrefix(format: string, source: LogSource, now: number, line: number): string {
  let out = "";
  for (const part of partsOf(format)) {
    if (typeof part === "string") {
      out += part;
      continue;
    }
    const text = escapeText(part.letter, source, now, line);
    out += part.width < 0 ? text.padEnd(-part.width) : text.padStart(part.width);
  }
  return out;
}

function escapeText(letter: string, source: LogSource, now: number, line: number): string {
  switch (letter) {
    case "a":
      return source.applicationName || "[unknown]";
    case "p":
      return String(source.pid);
    case "P":
      return source.processName;
    case "t":
      return formatTime(now);
    case "m":
      return formatTimeMs(now);
    case "d":
      return ofSession(source.database);
    case "u":
      return ofSession(source.user);
    case "l":
      return String(line);
    default:
      return "";
  }
}

const ofSession = (name: string | undefined): string =>
  name === undefined ? "[No Connection]" : name || "[unknown]";

function partsOf(format: string): readonly Part[] {
  const known = parsed.get(format);
  if (known !== undefined) return known;
  const parts = parsePrefix(format);
  if (parsed.size >= PARSED_MAX) parsed.clear();
  parsed.set(format, parts);
  return parts;
}

const WIDTH_MAX = 1000;

function parsePrefix(format: string): readonly Part[] {
  const parts: Part[] = [];
  const percentEscape = /%(?:(%)|(-?[0-9]*)([a-zA-Z]?))/g;
  let at = 0;
  for (const match of format.matchAll(percentEscape)) {
    const [all, percent, width = "", letter = ""] = match;
    parts.push(format.slice(at, match.index));
    at = match.index + all.length;
    if (percent !== undefined) parts.push("%");
    else if ("apPtmdul".includes(letter) && letter !== "") {
      const columns = Number(width === "-" ? 0 : width);
      parts.push({ letter, width: Math.max(-WIDTH_MAX, Math.min(WIDTH_MAX, columns)) });
    }
  }
  parts.push(format.slice(at));
  return parts.filter((part) => part !== "");
}
