/**
 * Kinds of stored password and the sums made from them: MD5 as PostgreSQL and PCP use it, and the
 * rules that tell which stored kind can answer which demand (spec wire/crypto.md 4,
 * wire/client-auth.md 2).
 */
import { createHash } from "node:crypto";
import { encodeText } from "../wire/text.ts";
import { concatBytes, equalSecrets, fromLatin1, latin1 } from "./bytes.ts";
import { decryptPassword, type PoolKey } from "./pool_key.ts";
import { parseVerifier, type ScramVerifier } from "./scram_keys.ts";

/** A password as somebody wrote it down: in pool_passwd, or in a `*_password` parameter. */
export type StoredPassword =
  /** `hash` is the 32 characters after `md5`, unchecked: whatever is not the right hash never matches. */
  | { readonly kind: "md5"; readonly hash: string }
  | { readonly kind: "aes"; readonly base64: string }
  | { readonly kind: "scram"; readonly verifier: ScramVerifier }
  | { readonly kind: "clear"; readonly password: Uint8Array }
  /** Nobody can log in with it: an empty password, or a verifier that is none. */
  | { readonly kind: "unusable" };

/** What remains of a stored password once the key in `.pgpoolkey` has been applied. */
export type Credential =
  | Exclude<StoredPassword, { kind: "aes" }>
  /** An AES entry that the pool key (or its absence) did not open. */
  | { readonly kind: "undecryptable" };

const md5Hex = (data: Uint8Array): string => createHash("md5").update(data).digest("hex");

/** What pcp.conf stores: 32 lower-case hex digits. */
export const pcpMd5 = (password: Uint8Array): string => md5Hex(password);

/** What PostgreSQL and pool_passwd store, without the leading `md5`. */
export const md5Hash = (password: Uint8Array, user: string): string =>
  md5Hex(concatBytes(password, encodeText(user)));

/** The answer to AuthenticationMD5Password with this 4-byte salt: `md5` and 32 hex digits. */
export const md5Response = (hash: string, salt: Uint8Array): string =>
  `md5${md5Hex(concatBytes(fromLatin1(hash), salt))}`;

/**
 * Recognises the kind by its prefix, in Pgpool's order. `text` has one character per byte
 * (`latin1`), which for the prefixes and hashes is the text itself.
 */
export function parseStoredPassword(text: string): StoredPassword {
  if (text.startsWith("md5") && text.length === 35) return { kind: "md5", hash: text.slice(3) };
  if (text.startsWith("AES")) return { kind: "aes", base64: text.slice(3) };
  if (text.startsWith("SCRAM-SHA-256$")) {
    const verifier = parseVerifier(text);
    return verifier === undefined ? { kind: "unusable" } : { kind: "scram", verifier };
  }
  return clearPassword(fromLatin1(text.startsWith("TEXT") ? text.slice(4) : text));
}

/** The same for a parameter of pgpool.conf (`sr_check_password`, …), which is ordinary text. */
export const parseConfiguredPassword = (value: string): StoredPassword =>
  parseStoredPassword(latin1(encodeText(value)));

/** PostgreSQL never accepts an empty password, so we never offer nor compare one. */
function clearPassword(password: Uint8Array): StoredPassword & Credential {
  return password.length === 0 ? { kind: "unusable" } : { kind: "clear", password };
}

/** Opens an AES entry; every other kind is itself. `key` is undefined when there is no key file. */
export function openStoredPassword(stored: StoredPassword, key: PoolKey | undefined): Credential {
  if (stored.kind !== "aes") return stored;
  const password = key === undefined ? undefined : decryptPassword(stored.base64, key);
  return password === undefined ? { kind: "undecryptable" } : clearPassword(password);
}

/** The md5 hash that a credential implies, when it implies one. */
export function md5HashOf(credential: Credential, user: string): string | undefined {
  switch (credential.kind) {
    case "md5":
      return credential.hash;
    case "clear":
      return md5Hash(credential.password, user);
    case "scram":
    case "unusable":
    case "undecryptable":
      return undefined;
  }
}

/** Whether `password` is the one stored. Takes a time that does not depend on either. */
export function matchesClear(
  credential: Extract<Credential, { kind: "md5" | "clear" }>,
  user: string,
  password: Uint8Array,
): boolean {
  return credential.kind === "clear"
    ? equalSecrets(credential.password, password)
    : equalSecrets(fromLatin1(credential.hash), fromLatin1(md5Hash(password, user)));
}

/**
 * Whether the subject of a verified client certificate names this user (rule `cert`): the whole
 * common name, ignoring the case of ASCII letters. A NUL ends nothing here, so `alice\0.evil` is
 * not `alice` (CVE-2026-92868).
 */
export function commonNameMatches(commonName: string | undefined, user: string): boolean {
  if (commonName === undefined || commonName === "" || user.includes("\0")) return false;
  return lowerAscii(commonName) === lowerAscii(user);
}

const lowerAscii = (text: string): string => text.replace(/[A-Z]/g, (c) => c.toLowerCase());
