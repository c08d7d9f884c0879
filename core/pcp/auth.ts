/**
 * Who may use PCP: pcp.conf on the server's side, the password file on the client's, and the sum
 * between them (spec wire/pcp.md section 2, wire/files.md sections 1 and 2).
 */

import { createHash } from "node:crypto";
import { concatBytes, equalSecrets, fromLatin1, latin1 } from "../auth/bytes.ts";
import { splitFields } from "../auth/pool_passwd.ts";
import { encodeText } from "../wire/text.ts";

export const SALT_SIZE = 4;
/** Names and responses are read up to here. */
export const PCP_NAME_SIZE_MAX = 128;

const md5Hex = (...parts: readonly Uint8Array[]): string =>
  createHash("md5")
    .update(concatBytes(...parts))
    .digest("hex");

/** What a client answers to a salt. `hash` is what pcp.conf stores: md5 of the password, in hex. */
export function pcpResponse(hash: string, user: string, salt: Uint8Array): string {
  const named = md5Hex(fromLatin1(hash), encodeText(user));
  return md5Hex(fromLatin1(named), salt);
}

/**
 * The hashes that pcp.conf has for a user; a name may stand there several times. Lines without a
 * colon are ignored (Pgpool refuses everybody for one that is long).
 */
export function pcpHashes(file: Uint8Array, user: string): readonly string[] {
  const wanted = latin1(encodeText(user));
  return latin1(file)
    .split("\n")
    .filter((line) => !line.startsWith("#"))
    .map((line) => ({ line, colon: line.indexOf(":") }))
    .filter(({ line, colon }) => colon > 0 && line.slice(0, colon) === wanted)
    .map(({ line, colon }) => line.slice(colon + 1).replace(/\r$/, ""));
}

/** Never equal to a hash in a file. */
const NOBODY = "0".repeat(31);

/** Whether the response proves one of the user's passwords. An unknown user takes as long. */
export function provesPassword(
  file: Uint8Array,
  claim: { readonly user: string; readonly response: string; readonly salt: Uint8Array },
): boolean {
  const { user, response, salt } = claim;
  const hashes = pcpHashes(file, user);
  const given = encodeText(response);
  let proven = false;
  for (const hash of hashes.length === 0 ? [NOBODY] : hashes) {
    const right = equalSecrets(encodeText(pcpResponse(hash, user, salt)), given);
    if (right && /^[0-9a-f]{32}$/.test(hash)) proven = true;
  }
  return proven;
}

/** Fields of a `.pcppass` line, in their order. */
export type PcpPassQuestion = {
  /** As the client was told it; `localhost` for the default socket directory. */
  readonly host: string;
  readonly port: number;
  readonly user: string;
};

/** The password of the first line that fits; undefined when none does. */
export function pcpPassword(file: Uint8Array, question: PcpPassQuestion): Uint8Array | undefined {
  const wanted = [question.host, String(question.port), question.user].map((text) =>
    latin1(encodeText(text)),
  );
  for (const line of latin1(file).split("\n")) {
    const fields = splitFields(line.replace(/\r$/, ""));
    const [, , , password] = fields;
    if (password === undefined) continue;
    if (wanted.every((value, at) => fields[at] === "*" || fields[at] === value)) {
      return fromLatin1(password);
    }
  }
  return undefined;
}
