/**
 * How we log in to a PostgreSQL server, from after the start-up packet to AuthenticationOk
 * (spec wire/client-auth.md 4). The server's demand decides; what to answer it with is asked of the
 * caller, who may have to authenticate its own client first.
 */
import { AuthenticationFailed, ProtocolViolation } from "../errors.ts";
import { type BackendMessage, decodeBackend, errorField } from "../wire/backend.ts";
import { int32At } from "../wire/bytes.ts";
import { AUTHENTICATION, BACKEND } from "../wire/codes.ts";
import { type Frame, frameOf } from "../wire/frame.ts";
import { encodeFrontend } from "../wire/frontend.ts";
import { decodeText, encodeText } from "../wire/text.ts";
import {
  type AuthDialogue,
  type BackendDemand,
  type BackendSecret,
  carryScram,
  receive,
  secretFor,
  send,
} from "./dialogue.ts";
import { md5Hash, md5Response } from "./password.ts";
import {
  type ScramClientSecret,
  saslMessageSizeMax,
  scramClient,
  scramMechanism,
} from "./scram.ts";

export type BackendLogin = {
  /** What the server demanded before it let us in; `trust` when nothing. */
  readonly demand: BackendDemand | "trust";
  /** Copies of the messages before AuthenticationOk that are the client's to see, in order. */
  readonly relayed: readonly Uint8Array[];
};

/** The server's own ErrorResponse ended the login. `response` is a copy of it, fit to be relayed. */
export class BackendRefused extends AuthenticationFailed {
  readonly response: Uint8Array;

  constructor(message: string, detail: string, response: Uint8Array, hint?: string) {
    super(message, { detail, hint, severity: "ERROR" });
    this.response = response;
  }

  /** The server is starting or stopping, or has no room: later it may be otherwise. */
  get isTemporary(): boolean {
    const message = decodeBackend(frameOf(this.response));
    const code = message.kind === "ErrorResponse" ? errorField(message, "C") : undefined;
    return code === "57P03" || code === "53300";
  }
}

/**
 * Receives the server's demand and answers it. NegotiateProtocolVersion and notices on the way are
 * collected. `scramNonce` is fresh random base64 of 18 bytes.
 */
export function* loginToBackend(login: {
  readonly user: string;
  readonly scramNonce: string;
}): AuthDialogue<BackendLogin> {
  const relayed: Uint8Array[] = [];
  const first = yield* receiveAuthentication(relayed, undefined);
  if (first.kind === "AuthenticationOk") return { demand: "trust", relayed };
  const demand = demandOf(first);
  const secret = yield* secretFor(demand);
  switch (first.kind) {
    case "AuthenticationCleartextPassword":
      yield* sendPassword(clearTextOf(secret, demand));
      break;
    case "AuthenticationMD5Password":
      yield* sendPassword(encodeText(md5Response(md5HashFor(secret, login.user), first.salt)));
      break;
    case "AuthenticationSASL":
      yield* loginByScram(scramSecretOf(secret), login.scramNonce, relayed);
      break;
    default:
      throw unsupported(first.kind);
  }
  // One demand a login: a server that goes on asking is fishing for more.
  const last = yield* receiveAuthentication(relayed, demand);
  if (last.kind === "AuthenticationOk") return { demand, relayed };
  throw outOfTurn(last.kind);
}

type AuthenticationRequest = Extract<BackendMessage, { readonly kind: `Authentication${string}` }>;

function demandOf(request: AuthenticationRequest): BackendDemand {
  switch (request.kind) {
    case "AuthenticationCleartextPassword":
      return "password";
    case "AuthenticationMD5Password":
      return "md5";
    case "AuthenticationSASL":
      if (request.mechanisms.includes(scramMechanism)) return "scram-sha-256";
      throw new AuthenticationFailed("failed to authenticate with backend", {
        detail: `none of the server's SASL authentication mechanisms are supported`,
        severity: "ERROR",
      });
    default:
      throw unsupported(request.kind);
  }
}

// --- SCRAM -----------------------------------------------------------------------------------

/** The server must have signed before it may say AuthenticationOk: `scramClient` sees to that. */
function* loginByScram(
  secret: ScramClientSecret,
  nonce: string,
  relayed: Uint8Array[],
): AuthDialogue<void> {
  let isFirst = true;
  yield* carryScram(scramClient({ secret, nonce }), function* exchange(text) {
    const data = encodeText(text);
    const expected = isFirst ? "AuthenticationSASLContinue" : "AuthenticationSASLFinal";
    yield* send(
      encodeFrontend(
        isFirst
          ? { kind: "SASLInitialResponse", mechanism: scramMechanism, response: data }
          : { kind: "SASLResponse", data },
      ),
    );
    isFirst = false;
    const answer = yield* receiveAuthentication(relayed, "scram-sha-256");
    if (answer.kind !== expected) throw outOfTurn(answer.kind);
    return saslText(answer.data);
  });
}

function saslText(data: Uint8Array): string {
  if (data.length <= saslMessageSizeMax) return decodeText(data);
  throw new ProtocolViolation("malformed SCRAM message", { detail: "message is too long" });
}

// --- Messages --------------------------------------------------------------------------------

function* sendPassword(password: Uint8Array): AuthDialogue<void> {
  yield* send(encodeFrontend({ kind: "PasswordMessage", password: decodeText(password) }));
}

/** The next Authentication message. What the client should see goes to `relayed`. */
function* receiveAuthentication(
  relayed: Uint8Array[],
  answered: BackendDemand | undefined,
): AuthDialogue<AuthenticationRequest> {
  for (;;) {
    const frame = yield* receive();
    switch (frame.type) {
      case BACKEND.Authentication:
        return decodeAuthentication(frame);
      case BACKEND.ErrorResponse:
        throw refusal(frame, answered);
      case BACKEND.NoticeResponse:
      case BACKEND.NegotiateProtocolVersion:
        if (relayed.length >= relayedMax) throw outOfTurn("NoticeResponse");
        relayed.push(frame.raw.slice());
        break;
      default:
        throw unexpectedKind(frame.type);
    }
  }
}

/** No server says more than a warning or two before it lets us in. */
const relayedMax = 16;

function decodeAuthentication(frame: Frame): AuthenticationRequest {
  const code = frame.body.length < 4 ? -1 : int32At(frame.body, 0);
  if (!knownCodes.has(code)) throw unsupportedCode(code);
  const message = decodeBackend(frame);
  if (isAuthentication(message)) return message;
  throw outOfTurn(message.kind);
}

const knownCodes: ReadonlySet<number> = new Set(Object.values(AUTHENTICATION));

const isAuthentication = (message: BackendMessage): message is AuthenticationRequest =>
  message.kind.startsWith("Authentication");

// --- Secrets ---------------------------------------------------------------------------------

function clearTextOf(secret: BackendSecret, demand: BackendDemand): Uint8Array {
  if (secret.kind === "clear") return secret.password;
  throw noValidPassword(demand);
}

function md5HashFor(secret: BackendSecret, user: string): string {
  switch (secret.kind) {
    case "md5":
      return secret.hash;
    case "clear":
      return md5Hash(secret.password, user);
    case "scram":
      throw noValidPassword("md5");
  }
}

function scramSecretOf(secret: BackendSecret): ScramClientSecret {
  switch (secret.kind) {
    case "clear":
      return { ...secret, kind: "password" };
    case "scram":
      return { ...secret, kind: "keys" };
    case "md5":
      throw noValidPassword("scram-sha-256");
  }
}

// --- Errors ----------------------------------------------------------------------------------

/** Codes E1, E2 and E3 of spec wire/client-auth.md 10: nothing we have answers this demand. */
export function noValidPassword(demand: BackendDemand): AuthenticationFailed {
  const refuse = (message: string, detail: string) =>
    new AuthenticationFailed(message, { detail, severity: "ERROR" });
  switch (demand) {
    case "md5":
      return refuse("failed to authenticate with backend using md5", "valid password not found");
    case "scram-sha-256":
      return refuse("failed to authenticate with backend using SCRAM", "valid password not found");
    case "password":
      return refuse("clear text password authentication failed", "unable to get the password");
  }
}

function refusal(frame: Frame, answered: BackendDemand | undefined): BackendRefused {
  const message = decodeBackend(frame);
  const text = message.kind === "ErrorResponse" ? (errorField(message, "M") ?? "") : "";
  const response = frame.raw.slice();
  if (answered !== undefined) return new BackendRefused("authentication failed", text, response);
  return new BackendRefused(
    "backend authentication failed",
    "backend response with kind 'E' when expecting 'R'",
    response,
    "This issue can be caused by version mismatch (current version 3)",
  );
}

function unexpectedKind(type: number): AuthenticationFailed {
  const kind = type >= 0x20 && type <= 0x7e ? String.fromCharCode(type) : `\\x${type.toString(16)}`;
  return new AuthenticationFailed("backend authentication failed", {
    detail: `backend response with kind '${kind}' when expecting 'R'`,
    hint: "This issue can be caused by version mismatch (current version 3)",
    severity: "ERROR",
  });
}

const unsupported = (kind: AuthenticationRequest["kind"]): AuthenticationFailed =>
  unsupportedCode(AUTHENTICATION[kind]);

const unsupportedCode = (code: number): AuthenticationFailed =>
  new AuthenticationFailed("failed to authenticate with backend", {
    detail: `unsupported auth kind received from backend: authkind:${code}`,
    severity: "ERROR",
  });

const outOfTurn = (kind: string): ProtocolViolation =>
  new ProtocolViolation(`unexpected ${kind} message from backend during authentication`);
