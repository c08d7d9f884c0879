/**
 * SCRAM-SHA-256 (RFC 5802, RFC 7677) for both ends, as generators over the text of its messages.
 * They touch no socket, draw no nonce and do no PBKDF2 themselves: each `yield` asks the driver for
 * one of those, and the driver answers. core/auth/server.ts and client.ts put the texts into
 * PostgreSQL's messages.
 *
 * Channel binding is not offered and not used; a place for it is the GS2 header and the list of
 * mechanisms, both of which are met in one function each.
 */
import { AuthenticationFailed, ProtocolViolation } from "../errors.ts";
import { encodeText } from "../wire/text.ts";
import { decodeBase64, encodeBase64, equalSecrets, hmacSha256, sha256, xorBytes } from "./bytes.ts";
import { saslprep } from "./saslprep.ts";
import {
  type Derivation,
  type ScramKeys,
  type ScramVerifier,
  sameSalting,
  scramIterationsMax,
  scramKeySize,
} from "./scram_keys.ts";

export const scramMechanism = "SCRAM-SHA-256";

/** Bytes of one SASL message. PostgreSQL's are below 200; a longer nonce or salt is an attack. */
export const saslMessageSizeMax = 2048;

export type ScramEffect =
  /** Send this text; the reply is the peer's next one. */
  | { readonly kind: "scram_message"; readonly text: string }
  /** Do this PBKDF2 (or remember it); the reply is the keys. */
  | ({ readonly kind: "derive" } & Derivation);

export type ScramReply =
  | { readonly kind: "scram_message"; readonly text: string }
  | { readonly kind: "derived"; readonly keys: ScramKeys };

export type ScramDialogue<Result> = Generator<ScramEffect, Result, ScramReply>;

function* ask(text: string): ScramDialogue<string> {
  const reply = yield { kind: "scram_message", text };
  if (reply.kind !== "scram_message") throw new TypeError("SCRAM expected the peer's message");
  return reply.text;
}

/** Asks for the keys of a password as typed: SASLprep is applied here. */
export function* askKeys(
  password: Uint8Array,
  salting: { readonly salt: Uint8Array; readonly iterations: number },
): ScramDialogue<ScramKeys> {
  const { salt, iterations } = salting;
  const reply = yield { kind: "derive", password: saslprep(password), salt, iterations };
  if (reply.kind !== "derived") throw new TypeError("SCRAM expected derived keys");
  return reply.keys;
}

// --- The server's side -----------------------------------------------------------------------

/**
 * What the client proved. `clientKey` comes out of a valid proof and logs in wherever the same
 * verifier is stored, so it is kept as secret as a password.
 */
export type ScramServerResult =
  | { readonly ok: true; readonly serverFinal: string; readonly clientKey: Uint8Array }
  | { readonly ok: false };

/**
 * Verifies one client against `verifier`. The client's first message has been received; the reply
 * to the last one (`serverFinal`) is the caller's to send. A wrong password gives `ok: false`, a
 * broken message raises ProtocolViolation.
 *
 * `nonce` is the server's part: fresh random base64 text of at least 18 bytes.
 */
export function* scramServer(options: {
  readonly clientFirst: string;
  readonly verifier: ScramVerifier;
  readonly nonce: string;
}): ScramDialogue<ScramServerResult> {
  const { verifier } = options;
  const first = readClientFirst(options.clientFirst);
  const nonce = first.nonce + options.nonce;
  const serverFirst = `r=${nonce},s=${encodeBase64(verifier.salt)},i=${verifier.iterations}`;

  const clientFinal = yield* ask(serverFirst);
  const final = readClientFinal(clientFinal, { nonce, binding: first.gs2Header });
  const authMessage = encodeText(`${first.bare},${serverFirst},${final.withoutProof}`);
  const clientKey = xorBytes(final.proof, hmacSha256(verifier.storedKey, authMessage));
  if (!equalSecrets(sha256(clientKey), verifier.storedKey)) return { ok: false };
  const signature = hmacSha256(verifier.serverKey, authMessage);
  return { ok: true, serverFinal: `v=${encodeBase64(signature)}`, clientKey };
}

type ClientFirst = { readonly gs2Header: string; readonly bare: string; readonly nonce: string };

/** `n,,n=user,r=nonce`. The user's name is ignored: the one in the start-up packet counts. */
function readClientFirst(text: string): ClientFirst {
  const flag = text[0];
  if (flag === "p")
    throw malformed("client requires SCRAM channel binding, but it is not supported");
  if (flag !== "n" && flag !== "y")
    throw malformed(`unexpected channel-binding flag "${flag ?? ""}"`);
  if (text[1] !== ",") throw malformed("comma expected after the channel-binding flag");
  if (text[2] === "a")
    throw malformed("client uses authorization identity, but it is not supported");
  if (text[2] !== ",") throw malformed("comma expected after the authorization identity");

  const bare = text.slice(3);
  const attributes = splitAttributes(bare, "client-first-message");
  if (attributes[0]?.name === "m") {
    throw malformed("client requires an unsupported SCRAM extension");
  }
  expectAttribute(attributes[0], "n");
  const nonce = expectAttribute(attributes[1], "r");
  checkNonce(nonce);
  return { gs2Header: `${flag},,`, bare, nonce };
}

/** `c=binding,r=nonce,p=proof`, the proof being last. */
function readClientFinal(
  text: string,
  expected: { readonly nonce: string; readonly binding: string },
): { readonly withoutProof: string; readonly proof: Uint8Array } {
  const attributes = splitAttributes(text, "client-final-message");
  const binding = expectAttribute(attributes[0], "c");
  if (binding !== encodeBase64(encodeText(expected.binding))) {
    throw malformed("unexpected SCRAM channel-binding attribute in client-final-message");
  }
  const nonce = expectAttribute(attributes[1], "r");
  if (!equalSecrets(encodeText(nonce), encodeText(expected.nonce)))
    throw malformed("nonce does not match");
  if (attributes.slice(2, -1).some(({ name }) => name === "p")) {
    throw malformed("garbage found at the end of client-final-message");
  }
  const encoded = attributes.length > 2 ? expectAttribute(attributes.at(-1), "p") : undefined;
  const proof = decodeBase64(encoded ?? "");
  if (proof?.length !== scramKeySize) throw malformed("malformed proof in client-final-message");
  return { withoutProof: text.slice(0, text.lastIndexOf(",p=")), proof };
}

// --- The client's side -----------------------------------------------------------------------

/** What a client may know: the password, or only the keys that some verifier was made of. */
export type ScramClientSecret =
  | { readonly kind: "password"; readonly password: Uint8Array }
  | {
      readonly kind: "keys";
      readonly clientKey: Uint8Array;
      readonly serverKey: Uint8Array;
      readonly salt: Uint8Array;
      readonly iterations: number;
    };

/**
 * Proves to a server that we know the secret, and makes it prove that it does. Returns when its
 * signature is right. `nonce` is fresh random base64 text. The user's name is sent empty, as libpq
 * does: PostgreSQL takes it from the start-up packet.
 */
export function* scramClient(options: {
  readonly secret: ScramClientSecret;
  readonly nonce: string;
}): ScramDialogue<void> {
  const gs2Header = "n,,";
  const bare = `n=,r=${options.nonce}`;
  const serverFirst = yield* ask(gs2Header + bare);
  const challenge = readServerFirst(serverFirst, options.nonce);

  const keys = yield* clientKeys(options.secret, challenge);
  const withoutProof = `c=${encodeBase64(encodeText(gs2Header))},r=${challenge.nonce}`;
  const authMessage = encodeText(`${bare},${serverFirst},${withoutProof}`);
  const storedKey = sha256(keys.clientKey);
  const proof = xorBytes(keys.clientKey, hmacSha256(storedKey, authMessage));

  const serverFinal = yield* ask(`${withoutProof},p=${encodeBase64(proof)}`);
  const signature = readServerFinal(serverFinal);
  if (!equalSecrets(signature, hmacSha256(keys.serverKey, authMessage))) {
    throw new AuthenticationFailed("SCRAM authentication failed", {
      detail: "incorrect server signature",
      severity: "ERROR",
    });
  }
}

function* clientKeys(
  secret: ScramClientSecret,
  challenge: { readonly salt: Uint8Array; readonly iterations: number },
): ScramDialogue<{ readonly clientKey: Uint8Array; readonly serverKey: Uint8Array }> {
  if (secret.kind === "password") return yield* askKeys(secret.password, challenge);
  if (sameSalting(secret, challenge)) return secret;
  throw new AuthenticationFailed("failed to authenticate with backend using SCRAM", {
    detail: "the verifier in pool_passwd is not the one of the backend",
    severity: "ERROR",
  });
}

/** `r=nonce,s=salt,i=iterations` and nothing else, as libpq reads it. */
function readServerFirst(
  text: string,
  ownNonce: string,
): { readonly nonce: string; readonly salt: Uint8Array; readonly iterations: number } {
  const attributes = splitAttributes(text, "server-first-message");
  const nonce = expectAttribute(attributes[0], "r");
  checkNonce(nonce);
  if (!nonce.startsWith(ownNonce) || nonce.length === ownNonce.length) {
    throw malformed("invalid SCRAM response (nonce mismatch)");
  }
  const salt = decodeBase64(expectAttribute(attributes[1], "s"));
  if (salt === undefined || salt.length === 0) throw malformed("invalid salt");
  const iterations = readIterations(expectAttribute(attributes[2], "i"));
  if (attributes.length > 3) throw malformed("garbage at end of server-first-message");
  return { nonce, salt, iterations };
}

function readIterations(text: string): number {
  const iterations = /^[1-9][0-9]{0,9}$/.test(text) ? Number(text) : 0;
  if (iterations === 0) throw malformed("invalid iteration count");
  if (iterations > scramIterationsMax) {
    throw malformed(`iteration count ${iterations} exceeds the limit of ${scramIterationsMax}`);
  }
  return iterations;
}

/** `v=signature`, or `e=reason` when the server refuses. */
function readServerFinal(text: string): Uint8Array {
  const attributes = splitAttributes(text, "server-final-message");
  if (attributes[0]?.name === "e") {
    throw new AuthenticationFailed("SCRAM authentication failed", {
      detail: `error received from server in SCRAM exchange: ${attributes[0].value}`,
      severity: "ERROR",
    });
  }
  const signature = decodeBase64(expectAttribute(attributes[0], "v"));
  if (signature?.length !== scramKeySize) throw malformed("invalid server signature");
  if (attributes.length > 1) throw malformed("garbage at end of server-final-message");
  return signature;
}

// --- Attributes ------------------------------------------------------------------------------

type Attribute = { readonly name: string; readonly value: string };

const malformed = (detail: string): ProtocolViolation =>
  new ProtocolViolation("malformed SCRAM message", { detail });

/** `a=value,b=value`: every part is one letter, an equals sign and a value. */
function splitAttributes(text: string, what: string): readonly Attribute[] {
  if (text.length > saslMessageSizeMax) throw malformed(`${what} is too long`);
  return text.split(",").map((part) => {
    if (!/^[A-Za-z]=[^\0]*$/.test(part)) throw malformed(`attribute expected in ${what}`);
    return { name: part.slice(0, 1), value: part.slice(2) };
  });
}

function expectAttribute(attribute: Attribute | undefined, name: string): string {
  if (attribute?.name === name) return attribute.value;
  throw malformed(`expected attribute "${name}" but found "${attribute?.name ?? ""}"`);
}

/** RFC 5802: printable ASCII without the comma, which `splitAttributes` has taken out. */
function checkNonce(nonce: string): void {
  if (!/^[\x21-\x7e]+$/.test(nonce)) throw malformed("non-printable characters in SCRAM nonce");
}
