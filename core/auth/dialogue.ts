/**
 * The vocabulary in which login dialogues speak to whoever runs them. A dialogue is a generator: it
 * yields an effect and is resumed with the reply. It is run by sockets in production
 * (`runDialogue` with an actor over a connection) and by a list of frames in tests.
 */
import type { Frame } from "../wire/frame.ts";
import type { ScramDialogue, ScramEffect, ScramReply } from "./scram.ts";
import type { Derivation, ScramKeys } from "./scram_keys.ts";

/** What a backend asks of us, by the names of pool_hba.conf. */
export type BackendDemand = "password" | "md5" | "scram-sha-256";

/** What answers a backend's demand. */
export type BackendSecret =
  | { readonly kind: "clear"; readonly password: Uint8Array }
  | { readonly kind: "md5"; readonly hash: string }
  /** Towards a backend that stores the very verifier these keys are of. */
  | {
      readonly kind: "scram";
      readonly clientKey: Uint8Array;
      readonly serverKey: Uint8Array;
      readonly salt: Uint8Array;
      readonly iterations: number;
    };

export type AuthEffect =
  /** Send to the peer. `bytes` are one whole message and the receiver's to keep. */
  | { readonly kind: "send"; readonly bytes: Uint8Array }
  /** The peer's next message, whatever its type: the dialogue refuses what it did not expect. */
  | { readonly kind: "receive" }
  /** PBKDF2, or what is remembered of it (`ScramKeyCache.keysOf`). */
  | ({ readonly kind: "derive" } & Derivation)
  /** Only towards backends: what shall we answer? The caller may first have to ask its client. */
  | { readonly kind: "secret"; readonly demand: BackendDemand };

export type AuthReply =
  | { readonly kind: "sent" }
  | { readonly kind: "received"; readonly frame: Frame }
  | { readonly kind: "derived"; readonly keys: ScramKeys }
  | { readonly kind: "secret"; readonly secret: BackendSecret };

export type AuthDialogue<Result> = Generator<AuthEffect, Result, AuthReply>;

export function* send(bytes: Uint8Array): AuthDialogue<void> {
  yield { kind: "send", bytes };
}

export function* receive(): AuthDialogue<Frame> {
  const reply = yield { kind: "receive" };
  if (reply.kind === "received") return reply.frame;
  throw new TypeError(`a login dialogue expected a frame and got "${reply.kind}"`);
}

export function* secretFor(demand: BackendDemand): AuthDialogue<BackendSecret> {
  const reply = yield { kind: "secret", demand };
  if (reply.kind === "secret") return reply.secret;
  throw new TypeError(`a login dialogue expected a secret and got "${reply.kind}"`);
}

/** Runs SCRAM inside a login: `exchange` puts a text into a message and waits for the peer's. */
export function* carryScram<Result>(
  scram: ScramDialogue<Result>,
  exchange: (text: string) => AuthDialogue<string>,
): AuthDialogue<Result> {
  let step = scram.next();
  while (!step.done) step = scram.next(yield* scramReply(step.value, exchange));
  return step.value;
}

function* scramReply(
  effect: ScramEffect,
  exchange: (text: string) => AuthDialogue<string>,
): AuthDialogue<ScramReply> {
  if (effect.kind === "scram_message") {
    return { kind: "scram_message", text: yield* exchange(effect.text) };
  }
  const reply = yield effect;
  if (reply.kind === "derived") return reply;
  throw new TypeError(`a login dialogue expected keys and got "${reply.kind}"`);
}

/** Carries out the effects of a dialogue. What any of these throws ends the dialogue. */
export interface AuthActor {
  send(bytes: Uint8Array): void | Promise<void>;
  /** Rejects when the peer is gone or the time is up. */
  receive(): Frame | Promise<Frame>;
  derive(work: Derivation): ScramKeys | Promise<ScramKeys>;
  /** Never called by dialogues with clients. */
  secretFor(demand: BackendDemand): BackendSecret | Promise<BackendSecret>;
}

/** Runs a dialogue to its end: its result, or the error that it or the actor threw. */
export async function runDialogue<Result>(
  dialogue: AuthDialogue<Result>,
  actor: AuthActor,
): Promise<Result> {
  let step = dialogue.next();
  while (!step.done) step = dialogue.next(await carryOut(step.value, actor));
  return step.value;
}

async function carryOut(effect: AuthEffect, actor: AuthActor): Promise<AuthReply> {
  switch (effect.kind) {
    case "send":
      await actor.send(effect.bytes);
      return { kind: "sent" };
    case "receive":
      return { kind: "received", frame: await actor.receive() };
    case "derive":
      return { kind: "derived", keys: await actor.derive(effect) };
    case "secret":
      return { kind: "secret", secret: await actor.secretFor(effect.demand) };
  }
}
