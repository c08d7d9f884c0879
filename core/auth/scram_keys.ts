/**
 * The sums of SCRAM-SHA-256 (RFC 5802 section 3, RFC 7677): keys from a password, the verifier
 * PostgreSQL stores, proofs and signatures.
 */
import { pbkdf2, pbkdf2Sync } from "node:crypto";
import { encodeText } from "../wire/text.ts";
import { decodeBase64, encodeBase64, equalSecrets, hmacSha256, sha256 } from "./bytes.ts";

/** What a password, a salt and an iteration count make. `clientKey` is as good as the password. */
export type ScramKeys = {
  readonly clientKey: Uint8Array;
  readonly storedKey: Uint8Array;
  readonly serverKey: Uint8Array;
};

/** `SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey`: proves a client, cannot log in anywhere. */
export type ScramVerifier = {
  readonly iterations: number;
  readonly salt: Uint8Array;
  readonly storedKey: Uint8Array;
  readonly serverKey: Uint8Array;
};

/** The work of one PBKDF2 (2.3 ms for 4096 iterations). `password` has gone through SASLprep. */
export type Derivation = {
  readonly password: Uint8Array;
  readonly salt: Uint8Array;
  readonly iterations: number;
};

/** Size of SHA-256's output, and so of every key, proof and signature. */
export const scramKeySize = 32;

/** What PostgreSQL and Pgpool use when they make a verifier. */
export const scramDefaultIterations = 4096;

/**
 * A server names the count, and we pay for it: without a cap a hostile one could keep us busy for
 * hours (PgBouncer's CVE-2026-6669 and its choice of the cap).
 */
export const scramIterationsMax = 1_000_000;

/** Blocks for the whole PBKDF2: for command line tools and tests. */
export const deriveScramKeys = (work: Derivation): ScramKeys =>
  keysOfSaltedPassword(
    pbkdf2Sync(work.password, work.salt, work.iterations, scramKeySize, "sha256"),
  );

/** The same on the runtime's thread pool. */
export function deriveScramKeysAsync(work: Derivation): Promise<ScramKeys> {
  return new Promise((resolve, reject) => {
    const { password, salt, iterations } = work;
    pbkdf2(password, salt, iterations, scramKeySize, "sha256", (error, salted) => {
      if (error) reject(error);
      else resolve(keysOfSaltedPassword(salted));
    });
  });
}

function keysOfSaltedPassword(salted: Uint8Array): ScramKeys {
  const clientKey = hmacSha256(salted, encodeText("Client Key"));
  const serverKey = hmacSha256(salted, encodeText("Server Key"));
  return { clientKey, storedKey: sha256(clientKey), serverKey };
}

export const sameSalting = (
  left: { readonly salt: Uint8Array; readonly iterations: number },
  right: { readonly salt: Uint8Array; readonly iterations: number },
): boolean => left.iterations === right.iterations && equalSecrets(left.salt, right.salt);

const verifierShape = /^SCRAM-SHA-256\$([0-9]{1,7}):([^$:]+)\$([^$:]+):([^$:]+)$/;

/** Undefined for anything that PostgreSQL would not take as a verifier. */
export function parseVerifier(text: string): ScramVerifier | undefined {
  const match = verifierShape.exec(text);
  const iterations = Number(match?.[1]);
  const [salt, storedKey, serverKey] = [2, 3, 4].map((at) => decodeBase64(match?.[at] ?? ""));
  if (salt === undefined || storedKey === undefined || serverKey === undefined) return undefined;
  if (storedKey.length !== scramKeySize || serverKey.length !== scramKeySize) return undefined;
  if (iterations < 1 || iterations > scramIterationsMax || salt.length === 0) return undefined;
  return { iterations, salt, storedKey, serverKey };
}

export const formatVerifier = (verifier: ScramVerifier): string =>
  `SCRAM-SHA-256$${verifier.iterations}:${encodeBase64(verifier.salt)}` +
  `$${encodeBase64(verifier.storedKey)}:${encodeBase64(verifier.serverKey)}`;
