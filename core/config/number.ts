/**
 * Numbers as pgpool.conf writes them: C notation, an optional unit, and back again for SHOW
 * (spec config/config-file.md section 3).
 */

import { INT_MAX, type NumberRow, type Unit } from "./param.ts";

export type ParsedNumber =
  | { readonly ok: true; readonly value: number }
  | { readonly ok: false; readonly reason: "malformed" | "unit" | "overflow" }
  | { readonly ok: false; readonly reason: "range"; readonly value: number };

/** Large to small. A fraction of one unit is rounded to whole ones of the next. */
const TIME_UNITS = [
  ["d", 86_400_000_000],
  ["h", 3_600_000_000],
  ["min", 60_000_000],
  ["s", 1_000_000],
  ["ms", 1_000],
  ["us", 1],
] as const;
const SIZE_UNITS = [
  ["TB", 1024 ** 4],
  ["GB", 1024 ** 3],
  ["MB", 1024 ** 2],
  ["kB", 1024],
  ["B", 1],
] as const;

const unitsOf = (base: Unit): readonly (readonly [string, number])[] =>
  base === "B" || base === "kB" ? SIZE_UNITS : TIME_UNITS;

const sizeOf = (base: Unit): number => unitsOf(base).find(([name]) => name === base)?.[1] ?? 1;

/** The hint of an error about a parameter that takes a unit. */
export function unitHint(base: Unit): string {
  return unitsOf(base) === SIZE_UNITS
    ? 'Valid units for this parameter are "B", "kB", "MB", "GB", and "TB".'
    : 'Valid units for this parameter are "us", "ms", "s", "min", "h", and "d".';
}

/** As C's strtol does with base 0: hexadecimal, octal after a leading 0, else decimal. */
const C_INTEGER = /^\s*([-+]?)(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)/;
const C_FLOAT = /^\s*[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?/;

/** Reads an `int` or `long`: rounds to even, and to the base unit of the row. */
export function parseInteger(text: string, row: NumberRow): ParsedNumber {
  const number = leadingNumber(text);
  if (number === undefined) return { ok: false, reason: "malformed" };
  const unit = number.rest.trim();
  let value = number.value;
  if (unit !== "") {
    const converted = row.unit === undefined ? undefined : toBase(value, unit, row.unit);
    if (converted === undefined) return { ok: false, reason: "unit" };
    value = converted;
  }
  value = roundHalfEven(value);
  const limit = row.type === "long" ? Number.MAX_SAFE_INTEGER : INT_MAX;
  if (value > limit || value < -limit - 1) return { ok: false, reason: "overflow" };
  return inRange(value, row);
}

/** Reads a `real` as C's atof: what does not begin with a number is 0. */
export function parseReal(text: string, row: NumberRow): ParsedNumber {
  return inRange(Number(C_FLOAT.exec(text)?.[0] ?? 0), row);
}

function inRange(value: number, row: NumberRow): ParsedNumber {
  const ok = value >= row.min && value <= (row.max ?? Number.MAX_SAFE_INTEGER);
  return ok ? { ok, value } : { ok, reason: "range", value };
}

function leadingNumber(text: string): { value: number; rest: string } | undefined {
  const integer = C_INTEGER.exec(text);
  if (integer !== null && !/^[.eE]/.test(text.slice(integer[0].length))) {
    const [all, sign, digits = ""] = integer;
    const magnitude = /^0[0-7]/.test(digits) ? Number.parseInt(digits, 8) : Number(digits);
    // `0 +` keeps a negative zero out of comparisons and of SHOW.
    return { value: 0 + (sign === "-" ? -magnitude : magnitude), rest: text.slice(all.length) };
  }
  const float = C_FLOAT.exec(text);
  if (float === null) return undefined;
  return { value: 0 + Number(float[0]), rest: text.slice(float[0].length) };
}

function toBase(value: number, unit: string, base: Unit): number | undefined {
  const units = unitsOf(base);
  const place = units.findIndex(([name]) => name === unit);
  const size = units[place]?.[1];
  if (size === undefined) return undefined;
  const next = units[place + 1]?.[1];
  const smallest = value * size;
  const rounded = next === undefined ? smallest : roundHalfEven(smallest / next) * next;
  return rounded / sizeOf(base);
}

function roundHalfEven(value: number): number {
  const floor = Math.floor(value);
  const half = value - floor;
  if (half !== 0.5) return 0 + Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}

/** The value in the largest unit that leaves no fraction: `5min`, `64MB`. 0 and below have no unit. */
export function formatWithUnit(value: number, base: Unit): string {
  if (value <= 0) return String(value);
  const smallest = value * sizeOf(base);
  const [name, size] = unitsOf(base).find(([, size]) => smallest % size === 0) ?? [base, 1];
  return `${smallest / size}${name}`;
}

/** The bounds as the error about them prints them. */
export function formatRange(row: NumberRow): string {
  if (row.type === "real") return `(${row.min.toFixed(6)} .. ${(row.max ?? INT_MAX).toFixed(6)})`;
  const max = row.max ?? (row.type === "long" ? "9223372036854775807" : INT_MAX);
  return `(${row.min} .. ${max})`;
}
