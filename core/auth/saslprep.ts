/**
 * SASLprep (RFC 4013) as PostgreSQL applies it to passwords: ASCII is left alone, and a password
 * that is not UTF-8 or that the profile refuses is used as its raw bytes, so that every password
 * has a SCRAM form. The checks look at the mapped text and not at the normalised one, because
 * PostgreSQL's do (src/common/saslprep.c): both ends must agree to the byte.
 */
import { encodeText } from "../wire/text.ts";
import { decodeUtf8 } from "./bytes.ts";
import {
  isInTable,
  leftToRight,
  mappedToNothing,
  nonAsciiSpaces,
  prohibited,
  rightToLeft,
  unassigned,
} from "./saslprep_tables.ts";

/** The bytes that PBKDF2 gets for this password. */
export function saslprep(password: Uint8Array): Uint8Array {
  if (password.every((byte) => byte < 0x80)) return password;
  const text = decodeUtf8(password);
  if (text === undefined) return password;
  const mapped = mapCodePoints(text);
  if (mapped.length === 0 || mapped.some(isRefused) || breaksBidiRules(mapped)) return password;
  return encodeText(String.fromCodePoint(...mapped).normalize("NFKC"));
}

function mapCodePoints(text: string): number[] {
  return Array.from(text, (character) => character.codePointAt(0) ?? 0)
    .map((code) => (isInTable(nonAsciiSpaces, code) ? 0x20 : code))
    .filter((code) => !isInTable(mappedToNothing, code));
}

const isRefused = (code: number): boolean =>
  isInTable(prohibited, code) || isInTable(unassigned, code);

/** RFC 3454 section 6: right-to-left text stands alone, and begins and ends as such. */
function breaksBidiRules(codes: readonly number[]): boolean {
  const isRightToLeft = (code: number | undefined) =>
    code !== undefined && isInTable(rightToLeft, code);
  if (!codes.some(isRightToLeft)) return false;
  if (codes.some((code) => isInTable(leftToRight, code))) return true;
  return !isRightToLeft(codes[0]) || !isRightToLeft(codes.at(-1));
}
