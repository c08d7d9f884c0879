/**
 * The text of one parameter becomes a value of its row's type, and a value becomes the text that
 * SHOW prints (spec config/config-file.md section 3).
 */

import { ConfigError } from "../errors.ts";
import { anchoredPattern } from "../posix_regex.ts";
import { formatRange, formatWithUnit, parseInteger, parseReal, unitHint } from "./number.ts";
import type { EnumRow, ListRow, NumberRow, Row, Value } from "./param.ts";

/** A value, and what to warn about although it was accepted. */
export type ParsedValue = { readonly value: Value; readonly warnings: readonly ValueWarning[] };
export type ValueWarning = { readonly message: string; readonly detail?: string };

/** @throws ConfigError with Pgpool's text. `name` is the name as written, index included. */
export function parseValue(name: string, row: Row, text: string): ParsedValue {
  switch (row.type) {
    case "bool":
      return parseBool(name, text);
    case "int":
    case "long":
    case "real":
      return { value: parseNumber(name, row, text), warnings: [] };
    case "string":
      return { value: text, warnings: [] };
    case "enum":
      return { value: parseEnum(name, row, text), warnings: [] };
    case "list":
      return parseList(name, row, text);
  }
}

/** The value a row has when nothing sets it. */
export function initialValue(name: string, row: Row): Value {
  return row.type === "list" ? parseList(name, row, row.initial).value : row.initial;
}

const invalid = (name: string, text: string, hint?: string): ConfigError =>
  new ConfigError(`invalid value for parameter "${name}": "${text}"`, { hint });

const TRUE_WORDS = ["on", "true", "yes", "1"];
const FALSE_WORDS = ["off", "false", "no", "0"];

/**
 * Words may be cut as long as they stay unique. Upstream takes any other word as true and says
 * nothing; the value is kept, but we warn.
 */
export function parseBool(name: string, text: string): ParsedValue & { readonly value: boolean } {
  const word = text.toLowerCase();
  const begins = (words: readonly string[]) =>
    word !== "" && word !== "o" && words.some((whole) => whole.startsWith(word));
  if (begins(TRUE_WORDS)) return { value: true, warnings: [] };
  if (begins(FALSE_WORDS)) return { value: false, warnings: [] };
  return {
    value: true,
    warnings: [
      {
        message: `invalid value for parameter "${name}": "${text}"`,
        detail: "A Boolean value is expected; this one counts as on.",
      },
    ],
  };
}

function parseNumber(name: string, row: NumberRow, text: string): number {
  const parsed = row.type === "real" ? parseReal(text, row) : parseInteger(text, row);
  if (parsed.ok) return parsed.value;
  switch (parsed.reason) {
    case "malformed":
      throw invalid(name, text);
    case "unit":
      throw invalid(name, text, row.unit === undefined ? undefined : unitHint(row.unit));
    case "overflow":
      throw invalid(name, text, "Value exceeds allowed range.");
    case "range": {
      const value = row.type === "real" ? parsed.value.toFixed(6) : parsed.value;
      throw new ConfigError(
        `${value} is outside the valid range for parameter "${name}" ${formatRange(row)}`,
      );
    }
  }
}

function parseEnum(name: string, row: EnumRow, text: string): string {
  const word = text.toLowerCase();
  const value = row.values.find((candidate) => candidate.toLowerCase() === word);
  const meant = value ?? row.aliases?.[word];
  if (meant !== undefined) return meant;
  throw invalid(name, text, `Available values: ${(row.listed ?? row.values).join(", ")}.`);
}

function parseList(name: string, row: ListRow, text: string): ParsedValue {
  // In a list of whole statements `\;` is no separator, and `\'` stands for a quote.
  const statements = row.regex === true && row.separator === ";";
  const pieces = statements ? text.split(/(?<!\\);/) : text.split(row.separator);
  const items = pieces
    .map((piece) => (statements ? piece.replaceAll("\\'", "'") : piece).trim())
    .filter((piece) => piece !== "");
  if (row.values !== undefined) return { value: onlyKnown(name, row.values, items), warnings: [] };
  if (row.regex !== true) return { value: items, warnings: [] };
  const bad = items.filter((item) => anchoredPattern(item) === undefined);
  const warnings = bad.map((item) => ({
    message: `unable to add regex pattern for "${name}", invalid pattern: "${anchored(item)}"`,
  }));
  return { value: items.filter((item) => !bad.includes(item)), warnings };
}

/** The text of an item as it is compiled, which is what the warning quotes. */
const anchored = (item: string): string =>
  `${item.startsWith("^") ? "" : "^"}${item}${item.endsWith("$") ? "" : "$"}`;

/** `log_destination` is the one list of fixed words; its errors have texts of their own. */
function onlyKnown(name: string, known: readonly string[], items: readonly string[]): Value {
  const unknown = items.find((item) => !known.includes(item));
  if (unknown !== undefined) {
    const detail = `unknown destination :${unknown}`;
    throw new ConfigError(`invalid configuration for "${name}"`, { detail });
  }
  if (items.length === 0) throw new ConfigError(`invalid value "" for ${name}`);
  return items;
}

/** The text of PGPOOL SHOW. Lists are shown as they were written, which the caller knows. */
export function formatValue(row: Row, value: Value): string {
  if (row.secret === true) return "*****";
  if (typeof value === "boolean") return value ? "on" : "off";
  if (typeof value === "string") return value;
  if (typeof value === "number") return formatNumber(row, value);
  return value.join(row.type === "list" ? row.separator : ",");
}

function formatNumber(row: Row, value: number): string {
  if (row.type === "real") return formatG(value);
  if (row.type !== "int" && row.type !== "long") return String(value);
  if (row.shown === "octal") return value.toString(8).padStart(4, "0");
  return row.unit === undefined || row.perNode !== undefined
    ? String(value)
    : formatWithUnit(value, row.unit);
}

/** C's `%g`: six significant digits, no trailing zeros. */
function formatG(value: number): string {
  const [mantissa = "", exponent] = value.toPrecision(6).split("e");
  const short = mantissa.includes(".") ? mantissa.replace(/\.?0+$/, "") : mantissa;
  if (exponent === undefined) return short;
  return `${short}e${exponent[0]}${exponent.slice(1).padStart(2, "0")}`;
}
