/**
 * How a client proves who it is: one dialogue for each method that needs words, and
 * `authenticateClient` that picks by the method of a pool_hba.conf rule (spec wire/client-auth.md 3
 * and 10). AuthenticationOk is not sent here: it follows the backend's own.
 *
 * Whatever else a client says in the middle ends the session (a second start-up packet during SCRAM
 * is CVE-2026-107350), and a user we do not know walks the same path as a wrong password.
 */
import { AuthenticationFailed, ProtocolViolation } from "../errors.ts";
import { encodeBackend } from "../wire/backend.ts";
import { FRONTEND } from "../wire/codes.ts";
import type { Frame } from "../wire/frame.ts";
import { type AuthenticationAnswer, decodeFrontend } from "../wire/frontend.ts";
import { decodeText, encodeText } from "../wire/text.ts";
import { equalSecrets, hmacSha256 } from "./bytes.ts";
import { type AuthDialogue, carryScram, receive, send } from "./dialogue.ts";
import type { HbaMethod } from "./hba.ts";
import {
  type Credential,
  commonNameMatches,
  matchesClear,
  md5HashOf,
  md5Response,
} from "./password.ts";
import { askKeys, saslMessageSizeMax, scramMechanism, scramServer } from "./scram.ts";
import { type ScramVerifier, scramDefaultIterations } from "./scram_keys.ts";

/** What a client has shown so far. */
export type ClientProof =
  /** A `trust` or `cert` rule let it in. */
  | { readonly kind: "trusted" }
  /** It knows the secret. `password` is set when it is known to us in clear. */
  | {
      readonly kind: "verified";
      readonly password?: Uint8Array | undefined;
      readonly scram?: ScramProof | undefined;
    }
  /** It named a password that nobody has checked: a backend must, or it does not get in. */
  | { readonly kind: "claimed"; readonly password: Uint8Array };

/** Keys that came out of a client's SCRAM proof. They log in wherever the same verifier is stored. */
export type ScramProof = {
  readonly clientKey: Uint8Array;
  readonly serverKey: Uint8Array;
  readonly salt: Uint8Array;
  readonly iterations: number;
};

export type ClientLogin = {
  /** As in the start-up packet. */
  readonly user: string;
  /** From pool_passwd or from the pooled connection; undefined when there is none. */
  readonly credential: Credential | undefined;
  /** Random, drawn for this attempt. The salt for md5 has 4 bytes; the nonce is base64 of 18. */
  readonly md5Salt: Uint8Array;
  readonly scramNonce: string;
  /**
   * 32 random bytes drawn once when the process starts. Users without an entry get a salt and a
   * password made from it, so that they look like the others, the second time as the first.
   */
  readonly processSecret: Uint8Array;
  /**
   * `mock`: an unknown user (and one whose entry is of the wrong kind) fails as a wrong password
   * does, and only the error's `cause` tells the log. `tell`: with Pgpool's texts, which let
   * anybody find out which users exist.
   */
  readonly unknownUsers: "mock" | "tell";
};

/**
 * A dialogue by the method of the rule that met the client. `commonName` is the one of a verified
 * client certificate.
 */
export function* authenticateClient(
  method: HbaMethod,
  login: ClientLogin,
  commonName: string | undefined,
): AuthDialogue<ClientProof> {
  switch (method) {
    case "trust":
      return { kind: "trusted" };
    case "password":
      return yield* authenticateClear(login);
    case "md5":
      return yield* authenticateMd5(login);
    case "scram-sha-256":
      return yield* authenticateScram(login);
    case "cert":
      if (commonNameMatches(commonName, login.user)) return { kind: "trusted" };
      throw new AuthenticationFailed("CERT authentication failed", {
        detail: "no valid certificate presented",
        severity: "ERROR",
        sqlstate: "28000",
      });
    case "reject":
    case "pam":
    case "ldap":
      throw new AuthenticationFailed("client authentication failed", {
        detail:
          method === "reject"
            ? `authentication with pgpool failed for user "${login.user}": host rejected`
            : `authentication method "${method}" of pool_hba.conf is not supported by this server`,
        hint: "see pgpool log for details",
      });
  }
}

// --- Clear text ------------------------------------------------------------------------------

/**
 * Asks for the password itself. Without a credential the answer is only a claim. `from` tells what
 * the credential is: the texts differ (spec 10, codes C and D).
 */
export function* authenticateClear(
  login: Pick<ClientLogin, "user" | "credential">,
  from: "pool_passwd" | "pooled" = "pool_passwd",
): AuthDialogue<ClientProof> {
  const { user, credential } = login;
  yield* send(encodeBackend({ kind: "AuthenticationCleartextPassword" }));
  const password = yield* receivePassword();
  const failure =
    from === "pooled"
      ? "clear text password authentication failed"
      : "clear text authentication failed";
  switch (credential?.kind) {
    case undefined:
      return { kind: "claimed", password };
    case "undecryptable":
      throw undecryptable("clear text");
    case "scram":
    case "unusable":
      throw refused(
        failure,
        "password type stored in pool_passwd can't be used for clear text authentication",
      );
    case "md5":
    case "clear":
      if (matchesClear(credential, user, password)) return { kind: "verified", password };
      throw refused(failure, "password does not match");
  }
}

// --- MD5 -------------------------------------------------------------------------------------

export function* authenticateMd5(login: ClientLogin): AuthDialogue<ClientProof> {
  const { user, credential, md5Salt } = login;
  if (credential?.kind === "undecryptable") throw undecryptable("md5");
  const hash = credential && md5HashOf(credential, user);
  const missing = hash === undefined ? md5Missing(login) : undefined;
  if (missing !== undefined && login.unknownUsers === "tell") throw missing;

  yield* send(encodeBackend({ kind: "AuthenticationMD5Password", salt: md5Salt }));
  const answer = yield* receivePassword();
  const expected = md5Response(hash ?? mockMd5Hash(login), md5Salt);
  const matches = equalSecrets(answer, encodeText(expected));
  if (!matches || missing !== undefined) {
    throw refused("md5 authentication failed", "password does not match", missing);
  }
  const password = credential?.kind === "clear" ? credential.password : undefined;
  return { kind: "verified", password };
}

function md5Missing(login: ClientLogin): AuthenticationFailed {
  const { user, credential } = login;
  if (credential === undefined) return noEntry("md5", user);
  return refused("md5 authentication failed", `username "${user}" has invalid password type`);
}

const mockMd5Hash = (login: ClientLogin): string =>
  mockBytes(login, "md5 hash").slice(0, 16).toHex();

// --- SCRAM -----------------------------------------------------------------------------------

export function* authenticateScram(login: ClientLogin): AuthDialogue<ClientProof> {
  const { user, credential } = login;
  if (credential?.kind === "undecryptable") throw undecryptable("SCRAM");
  const missing = scramMissing(login);
  if (missing !== undefined && login.unknownUsers === "tell") throw missing;

  yield* send(encodeBackend({ kind: "AuthenticationSASL", mechanisms: [scramMechanism] }));
  const clientFirst = yield* receiveClientFirst();
  const verifier = yield* verifierOf(login);
  const dialogue = scramServer({ clientFirst, verifier, nonce: login.scramNonce });
  const result = yield* carryScram(dialogue, exchangeSasl);
  if (!result.ok || missing !== undefined) {
    const detail = `username "${user}" or password does not exist in backend`;
    throw refused("authentication failed", detail, missing);
  }
  const data = encodeText(result.serverFinal);
  yield* send(encodeBackend({ kind: "AuthenticationSASLFinal", data }));
  const { salt, iterations, serverKey } = verifier;
  return {
    kind: "verified",
    password: credential?.kind === "clear" ? credential.password : undefined,
    scram: { clientKey: result.clientKey, serverKey, salt, iterations },
  };
}

/** Why this user cannot log in by SCRAM whatever it sends; undefined when it can. */
function scramMissing(login: ClientLogin): AuthenticationFailed | undefined {
  const { user, credential } = login;
  switch (credential?.kind) {
    case undefined:
      return noEntry("SCRAM", user);
    case "md5":
    case "unusable":
      return new AuthenticationFailed("SCRAM authentication failed", {
        detail: `pool_passwd file does not contain valid SCRAM entry for "${user}"`,
      });
    case "clear":
    case "scram":
    case "undecryptable":
      return undefined;
  }
}

/**
 * What the proof is held against. A password's salt depends on the user alone (as PostgreSQL's
 * does), so its keys are derived once and then found in the cache. Users that we make up get a salt
 * in the same way but share one derivation: it is always in the cache, as that of a user in daily
 * use is, and a flood of invented names neither costs PBKDF2 nor drives known users out.
 */
function* verifierOf(login: ClientLogin): AuthDialogue<ScramVerifier> {
  const { credential } = login;
  if (credential?.kind === "scram") return credential.verifier;
  const iterations = scramDefaultIterations;
  const salt = mockBytes(login, "scram salt").slice(0, 16);
  const known = credential?.kind === "clear" ? credential.password : undefined;
  const anyone = { ...login, user: "" };
  const derivation = askKeys(known ?? mockBytes(anyone, "scram password"), {
    salt: known === undefined ? mockBytes(anyone, "scram salt") : salt,
    iterations,
  });
  return { salt, iterations, ...(yield* carryScram(derivation, exchangeSasl)) };
}

function* receiveClientFirst(): AuthDialogue<string> {
  const answer = decodeAnswer(yield* receive(), "sasl_initial");
  if (answer.kind !== "SASLInitialResponse" || answer.mechanism !== scramMechanism) {
    throw new AuthenticationFailed("client selected an invalid SASL authentication mechanism");
  }
  if (answer.response !== undefined) return saslText(answer.response);
  // RFC 4422: a client that sent nothing yet gets an empty challenge, and then speaks first.
  return yield* exchangeSasl("");
}

function* exchangeSasl(text: string): AuthDialogue<string> {
  const data = encodeText(text);
  yield* send(encodeBackend({ kind: "AuthenticationSASLContinue", data }));
  const answer = decodeAnswer(yield* receive(), "sasl");
  return saslText(answer.kind === "SASLResponse" ? answer.data : new Uint8Array(0));
}

function saslText(data: Uint8Array): string {
  if (data.length <= saslMessageSizeMax) return decodeText(data);
  throw new ProtocolViolation("malformed SCRAM message", { detail: "message is too long" });
}

// --- What is common to them --------------------------------------------------------------------

/** Bytes of a PasswordMessage's body: Pgpool's limit for what a client may call its password. */
export const passwordMessageSizeMax = 1024;

function* receivePassword(): AuthDialogue<Uint8Array> {
  const frame = yield* receive();
  const invalid = (why: string) =>
    new AuthenticationFailed("authentication failed", {
      detail: `invalid authentication packet. ${why}`,
    });
  if (frame.type !== FRONTEND.Authentication) {
    throw invalid('password packet does not start with "p"');
  }
  const { length } = frame.body;
  if (length > passwordMessageSizeMax) {
    throw invalid(`password is too long. password length is ${length}`);
  }
  if (length === 0) throw invalid(`invalid password length. password length is ${length}`);
  const answer = decodeAnswer(frame, "password");
  return encodeText(answer.kind === "PasswordMessage" ? answer.password : "");
}

function decodeAnswer(
  frame: Frame,
  phase: "password" | "sasl_initial" | "sasl",
): AuthenticationAnswer {
  const message = decodeFrontend(frame, phase);
  switch (message.kind) {
    case "PasswordMessage":
    case "SASLInitialResponse":
    case "SASLResponse":
      return message;
    default:
      throw new ProtocolViolation(`unexpected ${message.kind} message during authentication`);
  }
}

/** 32 bytes that are always the same for one user and one purpose, and that nobody can foretell. */
const mockBytes = (login: ClientLogin, purpose: string): Uint8Array =>
  new Uint8Array(hmacSha256(login.processSecret, encodeText(`${purpose}\0${login.user}`)));

/** PostgreSQL's code for a wrong password, which drivers know. `hidden` is for the log alone. */
export const refused = (message: string, detail: string, hidden?: Error): AuthenticationFailed =>
  new AuthenticationFailed(message, {
    detail,
    severity: "ERROR",
    sqlstate: "28P01",
    cause: hidden,
  });

const noEntry = (method: string, user: string): AuthenticationFailed =>
  new AuthenticationFailed(`${method} authentication failed`, {
    detail: `pool_passwd file does not contain an entry for "${user}"`,
  });

/** The operator's mistake, so it is told as such: a key file that is missing or another one. */
export const undecryptable = (method: string): AuthenticationFailed =>
  new AuthenticationFailed(`${method} authentication failed`, {
    detail: "unable to decrypt password from pool_passwd",
    hint: "verify the valid pool_key exists",
  });
